"""Laws of messages as JSON."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from click.testing import CliRunner
from fakes import FakeBackend

from aobatch.cli.console import log_format, logs_json, say
from aobatch.cli.main import aobatch


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give an input with a bad line."""
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt":"a"}\nbad\n')
    return path


@pytest.mark.usefixtures("source", "backend")
def test_every_message_is_an_object(runner: CliRunner) -> None:
    """With JSON every line of standard error has a time, a level, an event and a message."""
    result = runner.invoke(aobatch, ["run", "in.jsonl", "--log-format", "json"])
    entries = [json.loads(line) for line in result.stderr.splitlines()]

    assert [entry["event"] for entry in entries] == ["start", "report", "finished", "end"]
    assert entries[-1]["level"] == "warning"
    assert entries[-1]["message"].startswith("1 of 2 lines failed")
    assert all(datetime.fromisoformat(entry["ts"]).tzinfo for entry in entries)
    assert (entries[1]["lines"], entries[1]["failed"]) == (2, 1)


@pytest.mark.usefixtures("source")
def test_errors_are_objects(runner: CliRunner, backend: FakeBackend) -> None:
    """An error keeps its level and is one line, whatever it quotes."""
    backend.fingerprints = {}
    result = runner.invoke(aobatch, ["run", "in.jsonl", "--log-format", "json", "-m", "a\n\x1b[2J"])
    (entry,) = [json.loads(line) for line in result.stderr.splitlines()][-1:]

    assert (result.exit_code, entry["level"]) == (69, "error")
    assert "a\n\x1b[2J" in entry["message"]
    assert "\x1b" not in result.stderr


@pytest.mark.usefixtures("source", "backend")
def test_quiet_success_says_nothing(runner: CliRunner) -> None:
    """-q holds for JSON as well."""
    arguments = ["run", "in.jsonl", "-q", "--log-format", "json", "--max-failures", "1"]

    assert runner.invoke(aobatch, arguments).output == ""


def test_format_ends_with_its_block(capsys: pytest.CaptureFixture[str]) -> None:
    """Behind a run in JSON messages are text again."""
    with log_format("json"):
        say("one", "two", level="warning")
    say("one", "two", level="warning")

    first, *text = capsys.readouterr().err.splitlines()
    assert json.loads(first)["message"] == "one\ntwo"
    assert text == ["aobatch: one", "two"]
    assert not logs_json()
