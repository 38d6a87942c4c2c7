"""Laws of looking at jobs that are not finished: answers so far, and how far they are."""

import json
import threading
import time
from pathlib import Path

import pytest
from fake_command import Invoke
from fakes import FakeBackend, paced

from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job

LINES = 12


@pytest.fixture
def job(tmp_path: Path) -> JobConfig:
    """Write an input, of which a line is no JSON and one fails in the engine."""
    prompts = [f'{{"custom_id": "c{i}", "prompt": "p{i}"}}' for i in range(LINES)]
    prompts[2], prompts[4] = "{broken", '{"prompt": "fail"}'
    (tmp_path / "in.jsonl").write_text("\n".join(prompts))
    return JobConfig((tmp_path / "in.jsonl",), tmp_path / "out.jsonl")


def test_answers_so_far_are_those_of_the_output(invoke: Invoke, job: JobConfig) -> None:
    """Of an interrupted job they are some of the output's lines, in their order; then all."""
    with pytest.raises(KeyboardInterrupt):
        run_job(job, FakeBackend(explosion=KeyboardInterrupt(), explodes_at=7))
    so_far = invoke("results", job.output).stdout.splitlines()
    run_job(job, FakeBackend())
    whole = job.output.read_text().splitlines()

    assert 3 <= len(so_far) < len(whole)
    assert so_far == [line for line in whole if line in so_far]
    assert invoke("results", job.output).stdout.splitlines() == whole


def test_a_job_that_is_none_is_told(invoke: Invoke, tmp_path: Path) -> None:
    """As everywhere, with exit code 66."""
    assert "is not the output of a job" in invoke("results", tmp_path / "x", code=66).stderr


def test_watching_follows_a_run_to_its_end(
    invoke: Invoke, job: JobConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each answer comes once, also those that are found while it is watched."""
    monkeypatch.setattr("aobatch.cli.jobs.WATCH_SECONDS", 0.02)
    gate = tmp_path / "gate"
    run = threading.Thread(target=run_job, args=(job, paced(f"held 5 {gate}")))
    run.start()
    while not invoke_status(job).get("answered", 0):
        time.sleep(0.01)
    threading.Timer(0.2, gate.touch).start()

    watched = invoke("results", job.output, "--watch").stdout.splitlines()
    run.join()
    assert sorted(watched) == sorted(job.output.read_text().splitlines())
    assert invoke("status", job.output, "--watch").stdout.count("is finished") == 1


def invoke_status(job: JobConfig) -> dict[str, int]:
    """Ask how far a job is, which may not have begun."""
    from aobatch.errors import JobError
    from aobatch.job.status import job_status

    try:
        found = job_status(job.output)
    except JobError:
        return {}
    return {"answered": found.answered}


def test_a_report_shows_the_first_failed_lines(invoke: Invoke, job: JobConfig) -> None:
    """Table, JSON and Markdown say where they stand, and why; three of them at most."""
    run_job(job, FakeBackend())
    table = invoke("report", job.output).stdout
    found = json.loads(invoke("report", job.output, "--json").stdout)["failed_lines"]

    assert "line 3: This line is not valid JSON" in table
    assert "line 5: The logits are NaN." in table
    assert [(failed["line"], failed["code"]) for failed in found] == [
        (3, "invalid_json_line"),
        (5, "numerical_error"),
    ]
    assert "`line 3`" in invoke("report", job.output, "--markdown", "-").stdout
