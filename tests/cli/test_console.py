"""Laws of what people read on standard error: messages, as text or JSON, and progress."""

import json
import time
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.cli import progress
from aobatch.cli.console import log_format, logs_json, say
from aobatch.cli.progress import Bar, Lines, StageBars, stage_progress


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give an input with a bad line."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt":"a"}\nbad\n')
    return path


@pytest.mark.usefixtures("source", "backend")
def test_every_message_is_an_object(invoke: Invoke) -> None:
    """With JSON every line of standard error has a time, a level, an event and a message."""
    result = invoke("run", "in.jsonl", "--log-format", "json", code=1)
    entries = [json.loads(line) for line in result.stderr.splitlines()]

    assert [entry["event"] for entry in entries] == ["start", "report", "finished", "end"]
    assert entries[-1]["level"] == "warning"
    assert entries[-1]["message"].startswith("1 of 2 lines failed")
    assert all(datetime.fromisoformat(entry["ts"]).tzinfo for entry in entries)
    assert (entries[1]["lines"], entries[1]["failed"]) == (2, 1)


@pytest.mark.usefixtures("source")
def test_errors_are_objects(invoke: Invoke, backend: FakeBackend) -> None:
    """An error keeps its level and is one line, whatever it quotes."""
    backend.fingerprints = {}
    result = invoke("run", "in.jsonl", "--log-format", "json", "-m", "a\n\x1b[2J", code=69)
    (entry,) = [json.loads(line) for line in result.stderr.splitlines()][-1:]

    assert entry["level"] == "error"
    assert "a\n\x1b[2J" in entry["message"]
    assert "\x1b" not in result.stderr


def test_format_ends_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    """Behind a run in JSON messages are text again."""
    with log_format("json"):
        say("one", "two", level="warning")
    say("one", "two", level="warning")

    first, *text = capsys.readouterr().err.splitlines()
    assert json.loads(first)["message"] == "one\ntwo"
    assert text == ["aobatch: one", "two"]
    assert not logs_json()


def test_lines_report_while_nothing_finishes(capsys: pytest.CaptureFixture[str]) -> None:
    """A log shows that the job lives, though no request has finished since the last line."""
    lines = Lines(seconds=0.01)
    lines.start(1200, 200)
    lines.advance(1, 50)

    text = ""
    while text.count("201 of 1,200 lines") < 2:
        text += capsys.readouterr().err
        time.sleep(0.01)
    lines.close()

    assert text.startswith("1,200 lines, 200 results kept from before\n")


def test_single_line_is_called_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A job of one line has no lines."""
    lines = Lines()
    lines.start(1, 1)
    lines.close()

    assert capsys.readouterr().err == "1 line, 1 result kept from before\n"


def test_fetching_a_model_is_no_part_of_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock starts at the first tokens, which were computed ahead of it and do not count."""
    now, said = [1000.0], []
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(progress, "say", lambda _, **fields: said.append(fields))
    lines = Lines()
    lines._total = 9
    ends = iter([False, True])
    monkeypatch.setattr(lines._stopped, "wait", lambda _: next(ends))

    now[0] += 600
    lines.advance(1, 50)
    now[0] += 2
    lines.advance(1, 40)
    lines._report()

    assert [fields["tokens_per_second"] for fields in said] == [20.0]


def test_bar_counts_lines_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar begins at what is known already."""
    bar = Bar()
    bar.start(10, 4)
    bar.advance(1, 50)
    bar.close()

    assert "4 of 10 lines" in capsys.readouterr().err


def test_bar_tells_of_the_model_first_then_of_speed_and_failures(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first tokens come the model is opened, which is no part of the time per line."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "time", lambda: now[0])
    monkeypatch.setattr(progress, "RoomyBar", partial(progress.RoomyBar, mininterval=0))
    bar = Bar()
    bar.start(10, 4)
    assert "opening the model, 4 of 10 lines answered" in capsys.readouterr().err
    now[0] += 500
    bar.advance(1, 0)
    bar.fail()
    bar.advance(1, 60)
    now[0] += 10
    bar.advance(1, 940)
    bar.close()

    text = capsys.readouterr().err
    assert "100 tokens/s, 1 failed" in text
    assert "7/10" in text


def test_downloads_count_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    """What comes by a network is told in megabytes, not in things a second."""
    bars = StageBars()
    bars("downloading a wheel", 0, 92_871_040)
    bars("downloading a wheel", 92_871_040, 92_871_040)

    text = capsys.readouterr().err
    assert "92.9M/92.9M" in text
    assert "B/s" in text
    assert "it/s" not in text


def test_conversions_count_weights(capsys: pytest.CaptureFixture[str]) -> None:
    """What is converted is told in weights, whatever they are made of."""
    bars = StageBars()
    bars("converting to int8", 0, 8_030_261_248)
    bars("converting to int8", 4_015_130_624, 8_030_261_248)
    bars.close()

    text = capsys.readouterr().err
    assert "50%" in text
    assert "4.02G/8.03G" in text
    assert " weights/s" in text


def test_bar_can_end_before_it_began() -> None:
    """A job that stops early closes a bar that was never drawn."""
    bar = Bar()
    bar.advance(1, 1)
    bar.close()


def test_stages_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    """A log has one line for each stage, however often it moves."""
    with stage_progress(is_quiet=False) as lines:
        for stage, done in (("download", 0), ("download", 5), ("convert", 1)):
            lines(stage, done, 10)

    assert capsys.readouterr().err == "download\nconvert\n"


def test_a_long_stage_says_where_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log hears each 30 seconds how much of a stage is done."""
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with stage_progress(is_quiet=False) as lines:
        for done in range(0, 101, 5):
            lines("convert", done, 100)
            now[0] += 10

    assert capsys.readouterr().err.splitlines() == [
        *("convert", "convert: 15%", "convert: 30%", "convert: 45%", "convert: 60%"),
        *("convert: 75%", "convert: 90%"),
    ]


def test_stages_have_a_bar_each(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal each stage is drawn to its end."""
    bars = StageBars()
    for stage, done in (("download", 0), ("download", 10), ("convert", 10)):
        bars(stage, done, 10)
    bars.close()

    text = capsys.readouterr().err
    assert "download: 100%" in text
    assert "convert: 100%" in text


@pytest.mark.parametrize(
    ("is_quiet", "is_terminal", "kind"),
    [(True, True, "Unwatched"), (False, True, "Bar"), (False, False, "Lines")],
)
def test_bar_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, is_quiet: bool, is_terminal: bool, kind: str
) -> None:
    """Logs get lines, people a bar, quiet jobs nothing."""
    monkeypatch.setattr(progress, "shows_bars", lambda: is_terminal)

    assert type(progress.job_progress(is_quiet=is_quiet)).__name__ == kind


def test_say_writes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing for people is mixed with data."""
    say("hello")

    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "hello\n")
