"""Laws of runs that want the same output: one works, the others say so at once."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crash_job import FIXED_START, HANG_SECONDS, CrashJob
from crash_laws import Reference, run_reference
from request_mix import mixed_lines

LINGERING_COMMAND = Path(__file__).with_name("lingering_command.py")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run the job that all want to do."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job", "0"))


def new_job(folder: Path, delay: str) -> CrashJob:
    """Give a job of the fake backend."""
    folder.mkdir()
    job = CrashJob(folder, delay)
    job.source.write_bytes(mixed_lines(60, 8))
    return job


def start(job: CrashJob) -> subprocess.Popen[str]:
    """Start a run whose messages can be told from those of others."""
    environment = os.environ | FIXED_START
    return subprocess.Popen(job.command, stderr=subprocess.PIPE, env=environment, text=True)


def wait_for_losers(runs: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Wait until all runs but one have ended; give that one."""
    deadline = time.monotonic() + HANG_SECONDS
    while len(left := [run for run in runs if run.poll() is None]) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(left) == 1
    return left[0]


@pytest.mark.parametrize(
    "num_rounds", [pytest.param(6, id="short"), pytest.param(50, id="long", marks=pytest.mark.long)]
)
def test_one_of_many_runs_works(
    tmp_path: Path, reference: Reference, tell: Callable[[str], None], num_rounds: int
) -> None:
    """All other runs exit with 75 and name the one; killed, it leaves no lock behind."""
    draw, num_runs = random.Random(num_rounds), 0
    for number in range(num_rounds):
        job = new_job(tmp_path / str(number), "0.5")
        runs = [start(job) for _ in range(2 + number % 7)]
        winner = wait_for_losers(runs)
        for run in runs:
            if run is winner:
                continue
            said = run.communicate()[1]
            assert run.returncode == 75, said
            assert f"process {winner.pid} on " in said or "another run" in said, said
            assert len(said.splitlines()) == 1, said
        winner.send_signal(draw.choice([signal.SIGKILL, signal.SIGTERM]))
        winner.communicate(timeout=HANG_SECONDS)
        num_runs += len(runs)

        assert replace(job, backend="0").run() == 0, job.messages.read_text()
        assert job.output.read_bytes() == reference.output
        assert job.names() == reference.names
    tell(f"locks: {num_rounds} rounds, {num_runs} runs, {num_rounds} of them at work")


def test_loser_ends_within_a_second(tmp_path: Path, tell: Callable[[str], None]) -> None:
    """A run that finds another one at work takes at most 1 s longer than one with nothing to do."""
    finished, held = new_job(tmp_path / "finished", "0"), new_job(tmp_path / "held", "0.5")
    assert finished.run() == 0
    with start(held) as holder:
        assert holder.stderr is not None
        assert "lines" in holder.stderr.readline()
        idle = min(seconds_of(finished, 0) for _ in range(3))
        losing = min(seconds_of(held, 75) for _ in range(3))
        holder.kill()

    tell(f"locks: a loser takes {losing:.2f} s, a run with nothing to do {idle:.2f} s")
    assert losing - idle <= 1


def seconds_of(job: CrashJob, code: int) -> float:
    """Measure a run that ends with a code."""
    started = time.monotonic()
    assert job.run() == code, job.messages.read_text()
    return time.monotonic() - started


def test_process_left_behind_does_not_hold_the_lock(tmp_path: Path, reference: Reference) -> None:
    """A child that outlives a killed run, whatever it inherited, stops nobody."""
    job, log = new_job(tmp_path / "job", "0"), tmp_path / "child"
    files = ["run", job.source, "-o", job.output]
    process = subprocess.Popen(
        [sys.executable, LINGERING_COMMAND, log, *files],
        stderr=subprocess.DEVNULL,
        env=os.environ | FIXED_START,
    )
    deadline = time.monotonic() + HANG_SECONDS
    while not (log.exists() and log.read_text().endswith("\n")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child = int(log.read_text())
    process.kill()
    process.wait(HANG_SECONDS)
    try:
        assert job.run() == 0, job.messages.read_text()
    finally:
        os.kill(child, signal.SIGKILL)
    assert job.output.read_bytes() == reference.output
