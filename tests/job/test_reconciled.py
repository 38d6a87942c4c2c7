"""Laws of what stands beside an output: it is that of the lines that are there now."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeBackend
from job_files import output, requests, run, run_and_stop, write_input

from aobatch.errors import JobError
from aobatch.job.config import JobConfig
from aobatch.job.context import Unwatched
from aobatch.job.report.facts import past_report
from aobatch.job.runner import run_job
from aobatch.job.status import job_status

STREAMED = requests(["one", "two", "three"], stream=True)


def events(folder: Path) -> dict[str, str]:
    """Give by name what each event file says."""
    found = {}
    for path in sorted((folder / "out.jsonl.stream").glob("*")):
        *chunks, last = [part for part in path.read_text().split("\n\n") if part]
        assert last == "data: [DONE]"
        texts = [json.loads(chunk.removeprefix("data: "))["choices"] for chunk in chunks]
        found[path.name] = "".join(choice["text"] for choices in texts for choice in choices)
    return found


def test_event_files_follow_their_lines(tmp_path: Path) -> None:
    """Whatever becomes of the lines around it, the file of a line is that of its number."""
    source = tmp_path / "in.jsonl"
    for lines, expected in (
        (STREAMED, {1: "[one]", 2: "[two]", 3: "[three]"}),
        ([*requests(["new"], stream=True), *STREAMED], {1: "[new]", 2: "[one]", 3: "[two]"}),
        ([*requests(["plain"]), *STREAMED[::-1]], {2: "[three]", 3: "[two]", 4: "[one]"}),
        ([STREAMED[1], *requests(["plain"])], {1: "[two]"}),
        (requests(["one", "two", "three"]), {}),
    ):
        write_input(source, lines)
        run(tmp_path)
        found = events(tmp_path)
        assert found.items() >= {f"{n:06d}.sse": text for n, text in expected.items()}.items()
        assert len(found) == sum("stream" in line for line in lines)
    assert not (tmp_path / "out.jsonl.stream").exists()


@pytest.mark.parametrize("is_linkable", [True, False])
def test_lost_events_come_back_without_computing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_linkable: bool
) -> None:
    """A finished job notices that event files are gone, cut or too many, byte for byte."""
    if not is_linkable:

        def refuse(*_: object) -> None:
            raise PermissionError

        monkeypatch.setattr(Path, "hardlink_to", refuse)
    write_input(tmp_path / "in.jsonl", STREAMED)
    run(tmp_path)
    folder = tmp_path / "out.jsonl.stream"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert len(before) == 3

    def lose_one() -> None:
        (folder / "000002.sse").unlink()

    def add_one() -> None:
        (folder / "000007.sse").write_text("data: [DONE]\n\n")

    for harm in (lose_one, add_one, lambda: shutil.rmtree(folder)):
        harm()
        backend = FakeBackend()
        assert not run(tmp_path, backend).was_finished
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
        assert backend.computed == []
    assert run(tmp_path).was_finished


def test_events_of_an_interrupted_run_are_those_of_a_whole_one(tmp_path: Path) -> None:
    """Also where lines moved before the run went on."""
    write_input(tmp_path / "in.jsonl", STREAMED)
    run_and_stop(tmp_path, 2)
    write_input(tmp_path / "in.jsonl", [*requests(["zero"]), *STREAMED])

    run(tmp_path)

    assert events(tmp_path) == {
        "000002.sse": "[one]",
        "000003.sse": "[two]",
        "000004.sse": "[three]",
    }


def several(folder: Path) -> tuple[Path, ...]:
    """Write two inputs, the first of which ends with blank lines."""
    (folder / "x").mkdir()
    (folder / "y").mkdir()
    first, second = folder / "x/a.jsonl", folder / "y/a.jsonl"
    write_input(first, [*requests(["a"], stream=True), b"", b"bad", b"", b""])
    bad: list[object] = [b"", b"worse", {"method": "POST", "custom_id": None, "url": "u"}]
    write_input(second, [*bad, *requests(["b"], stream=True)])
    return first, second


def test_lines_of_several_inputs_are_named_by_file_and_number(tmp_path: Path) -> None:
    """In error records, in envelopes and in the names of event files."""
    first, second = several(tmp_path)

    run_job(JobConfig((first, second), tmp_path / "out.jsonl"), FakeBackend())

    found = [(line.get("file"), line.get("line")) for line in output(tmp_path)]
    assert found == [
        (None, None),
        (str(first), 3),
        (str(second), 2),
        (str(second), 3),
        (None, None),
    ]
    assert events(tmp_path) == {"1-000001.sse": "[a]", "2-000004.sse": "[b]"}


def test_names_that_are_no_text_are_escaped(tmp_path: Path) -> None:
    """A record is JSON, whatever the file is called."""
    first, second = (tmp_path / os.fsdecode(name) for name in (b"\xff.jsonl", b"b.jsonl"))
    for path in (first, second):
        write_input(path, [b"bad"])

    run_job(JobConfig((first, second), tmp_path / "out.jsonl"), FakeBackend())

    assert [line["file"] for line in output(tmp_path)] == ["\\udcff.jsonl", "b.jsonl"]


def test_lines_of_one_input_have_no_file(tmp_path: Path) -> None:
    """Its name would say nothing."""
    write_input(tmp_path / "in.jsonl", [b"", b"bad"])
    run(tmp_path)

    (line,) = output(tmp_path)
    assert list(line) == ["line", "status_code", "error"]
    assert line["line"] == 2


def groups(report: Any) -> dict[str, dict[str | None, tuple[int, int]]]:  # noqa: ANN401
    """Give requests and failures by model and by user."""
    return {
        name: {group.name: (group.requests, group.failed) for group in getattr(report, name)}
        for name in ("by_model", "by_user")
    }


@pytest.mark.parametrize("is_finished", [True, False])
def test_failed_lines_keep_their_model_and_user(tmp_path: Path, is_finished: bool) -> None:
    """As far as they can be read; who names no model asks for the job's own."""
    wrong = {"prompt": "x", "temperature": 9}
    lines: list[object] = [
        wrong | {"model": "other", "user": "ada"},
        {
            "custom_id": "e",
            "method": "POST",
            "url": "/v1/completions",
            "body": wrong | {"user": "b"},
        },
        wrong | {"model": 7, "user": ["no"]},
        b"nonsense",
        b'{"prompt":"\\ud800","model":"\\ud800","user":"ada"}',
        {"prompt": "y", "model": "gone", "user": "ada"},
        {"prompt": "fail", "model": "other", "user": "ada"},
        {"prompt": "z", "user": "ada"},
        *requests(["more"] * 5, user="c"),
    ]
    write_input(tmp_path / "in.jsonl", lines)
    if is_finished:
        found = groups(run(tmp_path).report)
        assert found == groups(past_report(tmp_path / "out.jsonl"))
        by_model = {"other": (2, 2), "fake": (9, 3), None: (1, 1), "gone": (1, 1)}
    else:
        run_and_stop(tmp_path, 5)
        found = groups(past_report(tmp_path / "out.jsonl"))
        by_model = {"other": (2, 2), "fake": (5, 0), None: (4, 4), "gone": (1, 1)}

    assert found["by_model"] == by_model
    assert found["by_user"] == {
        "ada": (5, 4),
        "b": (1, 1),
        None: (2, 2),
        "c": (5 if is_finished else 4, 0),
    }


def test_a_default_model_and_user_are_those_of_failed_lines_too(tmp_path: Path) -> None:
    """What the job gives lines that leave it out, and what it puts in place of theirs."""
    write_input(
        tmp_path / "in.jsonl", [{"prompt": "x", "n": 0}, {"prompt": "x", "n": 0, "user": "a"}]
    )

    report = run(tmp_path, model="other", defaults={"user": "d"}).report
    assert groups(report) == {"by_model": {"other": (2, 2)}, "by_user": {"d": (1, 1), "a": (1, 1)}}

    report = run(tmp_path, overrides={"user": "o"}, is_restart=True).report
    assert groups(report)["by_user"] == {"o": (2, 2)}


class Watcher(Unwatched):
    """Remembers what it heard at the start."""

    started: tuple[int, int] = (0, 0)

    def start(self, total: int, known: int) -> None:
        """Hear how many lines there are, and how many an earlier run has answered."""
        self.started = total, known


def test_counts_are_of_the_lines_that_are_there(tmp_path: Path) -> None:
    """Results of lines that are gone are kept, and counted nowhere until they are of use again."""
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    write_input(source, requests([f"p{n}" for n in range(6)]))
    run(tmp_path)
    write_input(source, requests(["p5", "new"]))
    watcher = Watcher()
    backend = FakeBackend(explosion=KeyboardInterrupt(), explodes_at=0)
    with pytest.raises(KeyboardInterrupt):
        run_job(JobConfig((source,), out), backend, watcher)

    assert watcher.started == (2, 1)
    status = job_status(out)
    assert (status.lines, status.answered, status.failed) == (2, 1, 0)
    report = past_report(out)
    assert report.requests.total == 1
    assert report.usage.completion_tokens == status.completion_tokens

    write_input(source, [*requests([f"p{n}" for n in range(6)]), b"bad"])
    backend = FakeBackend()
    run_job(JobConfig((source,), out), backend, watcher)
    assert watcher.started == (7, 6)
    assert backend.computed == []


def test_lines_of_models_that_are_gone_count_as_answered(tmp_path: Path) -> None:
    """They have their error, as those have that are no requests."""
    lines = [{"prompt": "x", "model": "gone"}, b"bad", *requests(["a", "b", "c", "d"])]
    write_input(tmp_path / "in.jsonl", lines)
    with pytest.raises(JobError):
        run(tmp_path, FakeBackend(explosion=JobError("stop"), explodes_at=2))

    status = job_status(tmp_path / "out.jsonl")
    assert (status.lines, status.answered, status.failed) == (6, 4, 2)
