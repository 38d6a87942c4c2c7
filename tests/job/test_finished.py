"""Laws of jobs that were finished and are run again with a change."""

from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import PROMPTS, output, requests, run, run_and_stop, texts, write_input

from aobatch.api.request import Request
from aobatch.job.ledger import Ledger


def test_longer_input_computes_what_is_new(tmp_path: Path) -> None:
    """Lines added to a finished job, anywhere, are computed; the others keep their bytes."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    before = (tmp_path / "out.jsonl").read_bytes().splitlines()
    write_input(tmp_path / "in.jsonl", requests(["new", *reversed(PROMPTS), "last"]))
    backend = FakeBackend()

    run(tmp_path, backend)

    after = (tmp_path / "out.jsonl").read_bytes().splitlines()
    assert len(backend.computed) == 2
    answers = [line for line in after[1:-1] if b"error" not in line]
    assert answers == [line for line in reversed(before) if b"error" not in line]


def test_shorter_input_keeps_no_more_results(tmp_path: Path) -> None:
    """Results of lines that are gone do not pile up; nothing is computed for the others."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    write_input(tmp_path / "in.jsonl", requests(PROMPTS[:2]))
    backend = FakeBackend()

    run(tmp_path, backend)

    assert backend.computed == []
    assert len(output(tmp_path)) == 2
    assert len(Ledger(tmp_path / "out.jsonl.aobatch/ledger.sqlite3")) == 2


@pytest.mark.parametrize("damage", ["edited", "cut", "gone"])
def test_damaged_output_is_published_again(tmp_path: Path, damage: str) -> None:
    """An output that somebody changed comes back byte by byte without any computation."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    path = tmp_path / "out.jsonl"
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(b"edited" if damage == "edited" else whole[:-10])
    backend = FakeBackend()

    outcome = run(tmp_path, backend)

    assert not outcome.was_finished
    assert path.read_bytes() == whole
    assert backend.computed == []


def test_damaged_marker_costs_nothing(tmp_path: Path) -> None:
    """Without a readable note of its end a job is published again from its results."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    (tmp_path / "out.jsonl.aobatch/done.json").write_bytes(b"{")
    backend = FakeBackend()

    run(tmp_path, backend)

    assert backend.computed == []


def test_retry_computes_failed_requests_alone(tmp_path: Path) -> None:
    """A retry of a finished job computes what failed and no more; without failures it is none."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    backend = Healed()

    outcome = run(tmp_path, backend, retries_failed=True)

    assert len(backend.computed) == 1
    assert outcome.report.requests.failed == 0
    assert texts(tmp_path) == [f"[{prompt}]" for prompt in PROMPTS]
    assert run(tmp_path, Healed(), retries_failed=True).was_finished


def test_interrupted_retry_goes_on(tmp_path: Path) -> None:
    """A retry that was stopped is not taken for a finished job by the next run."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    run_and_stop(tmp_path, 0, retries_failed=True)

    assert run(tmp_path, Healed()).report.requests.failed == 0


class Healed(FakeBackend):
    """A backend that answers what failed before."""

    def fails(self, request: Request) -> bool:  # noqa: ARG002 - the fake's signature
        """Fail never."""
        return False


def test_other_name_of_the_model_is_another_answer(tmp_path: Path) -> None:
    """An alias stands in each response of a line that names no model: it is no finished job."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS[:2]))
    names = {"fake": "fp_1", "alias": "fp_1"}

    def model(asked: str | None) -> tuple[bool, str]:
        backend = FakeBackend(fingerprints=names)
        outcome = run(tmp_path, backend, model=asked)
        return outcome.was_finished, output(tmp_path)[0]["model"]

    assert model(None) == (False, "fake")
    assert model("fake") == (True, "fake")
    assert model("alias") == (False, "alias")
    assert model("alias") == (True, "alias")


def test_name_of_the_model_does_not_matter_where_lines_name_it(tmp_path: Path) -> None:
    """A job whose lines all name their model has the same bytes whatever the command says."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS[:2], model="fake"))
    names = {"fake": "fp_1", "alias": "fp_1"}
    run(tmp_path, FakeBackend(fingerprints=names))

    assert run(tmp_path, FakeBackend(fingerprints=names), model="alias").was_finished
