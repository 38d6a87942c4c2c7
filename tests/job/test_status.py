"""Laws of the status of a job."""

import subprocess
import sys
from pathlib import Path

import pytest
from job_files import PROMPTS, requests, run, run_and_stop, write_input
from waiting import HANG_SECONDS, wait_until

from aobatch.errors import InputMissingError
from aobatch.files import hold_lock
from aobatch.job.status import job_status

FAKE_JOB = Path(__file__).with_name("fake_job.py")


def test_finished_job_says_so(tmp_path: Path) -> None:
    """Every line of a published job is answered."""
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])
    report = run(tmp_path).report

    found = job_status(tmp_path / "out.jsonl")

    assert (found.state, found.lines, found.answered, found.failed) == ("finished", 8, 8, 2)
    assert found.completion_tokens == report.usage.completion_tokens
    assert found.seconds_left is None


def test_interrupted_job_counts_what_it_has(tmp_path: Path) -> None:
    """Results and bad lines count as answered, and the rest of the time is guessed from them."""
    write_input(tmp_path / "in.jsonl", [b"nonsense", *requests(PROMPTS)])
    run_and_stop(tmp_path, 4)

    found = job_status(tmp_path / "out.jsonl")

    assert (found.state, found.lines, found.answered, found.failed) == ("interrupted", 8, 5, 2)
    assert found.seconds_left == pytest.approx(found.seconds / 5 * 3)


def test_running_job_names_its_process(tmp_path: Path) -> None:
    """While a run is at work the status names it and does not disturb it."""
    write_input(tmp_path / "in.jsonl", requests([f"p{i}" for i in range(40)]))
    gate = tmp_path / "gate"
    names = (tmp_path / "in.jsonl", tmp_path / "out.jsonl", f"held 3 {gate}", tmp_path / "log")
    process = subprocess.Popen([sys.executable, FAKE_JOB, *map(str, names)])
    wait_until((tmp_path / "log").exists, process)

    found = job_status(tmp_path / "out.jsonl")

    assert (found.state, found.lines) == ("running", 40)
    assert f"process {process.pid} " in str(found.holder)
    gate.touch()
    assert process.wait(HANG_SECONDS) == 0


def test_asking_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    """A run begins though somebody asks for the status all the time."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    run(tmp_path)
    asking = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from aobatch.job.status import job_status\n"
            "print('asking', flush=True)\n"
            "while True: job_status(Path(sys.argv[1]))",
            str(tmp_path / "out.jsonl"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert asking.stdout is not None
    assert asking.stdout.readline() == "asking\n"
    try:
        for _ in range(30):
            with hold_lock(tmp_path / "out.jsonl.aobatch/lock"):
                pass
    finally:
        asking.kill()
        asking.communicate()


def test_a_job_that_begins_has_nothing_yet(tmp_path: Path) -> None:
    """A ledger without its tables, as it is for a moment, is that of a job with no line known."""
    state = tmp_path / "out.jsonl.aobatch"
    state.mkdir()
    (state / "ledger.sqlite3").touch()

    found = job_status(tmp_path / "out.jsonl")

    assert (found.state, found.lines, found.answered, found.failed) == ("interrupted", 0, 0, 0)


def test_output_without_a_job_is_unknown(tmp_path: Path) -> None:
    """A file that no job of ours wrote has no status."""
    with pytest.raises(InputMissingError, match="not the output of a job"):
        job_status(tmp_path / "out.jsonl")
