"""Laws of whole jobs."""

import json
import os
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import PROMPTS, output, requests, run, texts, write_input

from aobatch.errors import InputError, JobError, ModelError, StorageError, UsageError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.config import JobConfig
from aobatch.job.context import Progress
from aobatch.job.runner import run_job


def test_output_keeps_input_order(tmp_path: Path) -> None:
    """Every line has its answer at its own place, though results come out of order."""
    write_input(tmp_path / "in.jsonl", requests([f"p{i}" for i in range(20)]))

    run(tmp_path)

    assert texts(tmp_path) == [f"[p{i}]" for i in range(20)]


def test_blank_lines_have_no_output_line(tmp_path: Path) -> None:
    """Blank lines are skipped, and counted in the numbers of the others."""
    write_input(tmp_path / "in.jsonl", [{"prompt": "a"}, b"", b" \t", b"{", {"prompt": "b"}])

    run(tmp_path)

    first, bad, last = output(tmp_path)
    assert (bad["line"], bad["error"]["code"]) == (4, "invalid_json_line")
    assert "choices" in first
    assert "choices" in last


def test_bad_line_changes_no_other_line(tmp_path: Path) -> None:
    """The other lines are byte for byte those of a job without the bad one."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    expected = (tmp_path / "out.jsonl").read_bytes().splitlines()
    bad = {"prompt": "x", "temperature": 5}
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS[:2]), bad, *requests(PROMPTS[2:])])

    run(tmp_path)

    lines = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert json.loads(lines.pop(2))["error"]["code"] == "decimal_above_max_value"
    # Error records carry their line number, which has moved by one.
    assert [line.replace(b'"line":4', b'"line":3') for line in lines] == expected


def test_report_is_sum_of_lines(tmp_path: Path) -> None:
    """The usage report adds up what the output lines say."""
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])

    report = run(tmp_path).report

    usages = [line["usage"] for line in output(tmp_path) if "usage" in line]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(report.usage, name) == sum(usage[name] for usage in usages)
    assert report.requests.failed_by_code == {"numerical_error": 1, "invalid_json_line": 1}
    assert report.requests.completed == len(usages)
    written = json.loads((tmp_path / "out.jsonl.usage.json").read_bytes())
    assert written["usage"]["total_tokens"] == report.usage.total_tokens


def test_empty_input_gives_empty_output(tmp_path: Path) -> None:
    """A job without lines opens no model and publishes an empty file."""
    (tmp_path / "in.jsonl").touch()
    backend = FakeBackend()

    outcome = run(tmp_path, backend)

    assert (tmp_path / "out.jsonl").read_bytes() == b""
    assert outcome.report.requests.total == 0
    assert backend.opened == []


def test_finished_job_is_not_run_again(tmp_path: Path) -> None:
    """A second run keeps the bytes, makes the output newest and opens no model."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    first = run(tmp_path)
    paths = [tmp_path / name for name in ("out.jsonl", "out.jsonl.usage.json")]
    before = [path.read_bytes() for path in paths]
    for path in paths:
        os.utime(path, (0, 0))
    backend = FakeBackend()

    second = run(tmp_path, backend)

    assert second.was_finished
    assert second.report == first.report
    assert backend.opened == []
    assert [path.read_bytes() for path in paths] == before
    changed = [path.stat().st_mtime_ns for path in paths]
    assert changed[0] >= changed[1] > 0


@pytest.mark.parametrize("damage", ["settings", "model", "restart"])
def test_changed_job_begins_anew(tmp_path: Path, damage: str) -> None:
    """A finished job whose settings or model changed shares no result with the one before."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    backend = FakeBackend()
    if damage == "settings":
        backend.settings["seed"] = 1
    elif damage == "model":
        backend.fingerprints["fake"] = "fp_new"

    outcome = run(tmp_path, backend, is_restart=damage == "restart")

    assert not outcome.was_finished
    assert len(backend.computed) == outcome.report.requests.total
    assert len(output(tmp_path)) == outcome.report.requests.total


def test_state_folder_holds_no_surprise(tmp_path: Path) -> None:
    """A published job keeps its results, the note of its end and its lock; nothing is under way."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))

    run(tmp_path)

    sizes = {path.name: path.stat().st_size for path in (tmp_path / "out.jsonl.aobatch").iterdir()}
    assert set(sizes) == {"done.json", "in-flight", "ledger.sqlite3", "lock"}
    assert sizes["in-flight"] == 0
    assert not list(tmp_path.glob(".*"))


def test_unknown_model_fails_its_lines_alone(tmp_path: Path) -> None:
    """A line that names a model nobody has gets 404; the job goes on."""
    write_input(tmp_path / "in.jsonl", [{"prompt": "a", "model": "gone"}, {"prompt": "b"}])

    report = run(tmp_path).report

    bad, good = output(tmp_path)
    assert (bad["status_code"], bad["error"]["code"]) == (404, "model_not_found")
    assert "choices" in good
    assert report.by_model[0].name == "gone"


def test_unknown_model_of_the_job_stops_it(tmp_path: Path) -> None:
    """A wrong --model is the job's error, not that of each line."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))

    with pytest.raises(ModelError, match="'gone' does not exist"):
        run(tmp_path, model="gone")


def test_wrong_default_stops_the_job(tmp_path: Path) -> None:
    """A body default that no line could use is an error of usage."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))

    with pytest.raises(UsageError, match="temperature"):
        run(tmp_path, defaults={"temperature": 9})


def test_input_that_changes_is_not_published(tmp_path: Path) -> None:
    """Lines appended while the job ran leave the output as it was."""
    source = write_input(tmp_path / "in.jsonl", requests(PROMPTS))

    class Meddler(FakeBackend):
        def open(self, model: ModelIdentity) -> AbstractContextManager[Executor]:
            source.write_bytes(source.read_bytes() + b'{"prompt":"late"}\n')
            return super().open(model)

    (tmp_path / "out.jsonl").write_bytes(b"old\n")

    with pytest.raises(InputError, match="changed while the job ran"):
        run(tmp_path, Meddler())
    assert (tmp_path / "out.jsonl").read_bytes() == b"old\n"


def test_requests_are_pulled_as_needed(tmp_path: Path) -> None:
    """No more requests are read than the executor has asked for."""
    write_input(tmp_path / "in.jsonl", requests([str(i) for i in range(50)]))
    backend = FakeBackend(explosion=StorageError("stop"), explodes_at=2)
    resolved: list[str | None] = []
    backend.resolve = lambda name, _: resolved.append(name) or FakeBackend.resolve(backend, name)  # type: ignore[method-assign, func-returns-value]

    with pytest.raises(StorageError):
        run(tmp_path, backend)
    assert len(backend.computed) == 2
    assert len(resolved) == 1


def test_lost_result_is_reported(tmp_path: Path) -> None:
    """An executor that forgets a request ends the job instead of publishing a hole."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))

    with pytest.raises(JobError, match="6 results for 7 requests"):
        run(tmp_path, FakeBackend(forgets="two"))


def test_files_are_read_as_one(tmp_path: Path) -> None:
    """The output has all lines in order; a number is that of a line in its own file."""
    first = write_input(tmp_path / "a.jsonl", [{"prompt": "a"}, b"{"])
    second = write_input(tmp_path / "b.jsonl", [b"", b"[", {"prompt": "b"}])

    run_job(JobConfig((first, second), tmp_path / "out.jsonl"), FakeBackend())

    places = [(line.get("file"), line.get("line")) for line in output(tmp_path)]
    assert places == [(None, None), ("a.jsonl", 2), ("b.jsonl", 2), (None, None)]


class Counter(Progress):
    """Counts the lines that a job says it has answered."""

    def __init__(self) -> None:
        self.num_lines = 0

    def advance(self, num_lines: int, num_tokens: int) -> None:  # noqa: ARG002 - the protocol's
        """Count."""
        self.num_lines += num_lines


@pytest.mark.parametrize("prompts", [["a", "b"], ["a", "raise now", "b"]], ids=["fine", "failing"])
def test_progress_counts_each_line_once(tmp_path: Path, prompts: list[str]) -> None:
    """Bad lines and answers add up to the lines, also where requests are computed apart."""
    write_input(tmp_path / "in.jsonl", [b"{", *requests(prompts), b"["])
    counter = Counter()

    run_job(JobConfig((tmp_path / "in.jsonl",), tmp_path / "out.jsonl"), FakeBackend(), counter)

    assert counter.num_lines == len(prompts) + 2
