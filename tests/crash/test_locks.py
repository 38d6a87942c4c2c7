"""Laws of runs that want the same output: one works, the others say so at once."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crash_job import FIXED_START, CrashJob
from crash_laws import Reference, run_reference
from request_mix import mixed_lines
from waiting import HANG_SECONDS, children_seconds, wait_until

LINGERING_COMMAND = Path(__file__).with_name("lingering_command.py")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run the job that all want to do."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job", "0"))


def new_job(folder: Path, pace: str) -> CrashJob:
    """Give a job of the fake backend."""
    folder.mkdir()
    job = CrashJob(folder, pace)
    job.source.write_bytes(mixed_lines(60, 8))
    return job


def start(job: CrashJob) -> subprocess.Popen[str]:
    """Start a run whose messages can be told from those of others."""
    environment = os.environ | FIXED_START
    return subprocess.Popen(job.command, stderr=subprocess.PIPE, env=environment, text=True)


def wait_for_losers(runs: list[subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Wait until all runs but one have ended; give that one."""
    wait_until(lambda: sum(run.poll() is None for run in runs) <= 1)
    (left,) = [run for run in runs if run.poll() is None]
    return left


@pytest.mark.parametrize(
    "num_rounds", [pytest.param(3, id="short"), pytest.param(50, id="long", marks=pytest.mark.long)]
)
def test_one_of_many_runs_works(
    memory: Path, reference: Reference, tell: Callable[[str], None], num_rounds: int
) -> None:
    """All other runs exit with 75 and name the one; killed, it leaves no lock behind."""
    draw, num_runs = random.Random(num_rounds), 0
    for number in range(num_rounds):
        job = new_job(memory / str(number), "held 0")
        runs = [start(job) for _ in range(2 + 3 * number % 7)]
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


def test_loser_ends_soon(memory: Path, tell: Callable[[str], None]) -> None:
    """A run that finds another one at work ends meanwhile, and computes no more than an idle one.

    Of processor time it takes at most 0.5 s more.
    """
    finished, held = new_job(memory / "finished", "0"), new_job(memory / "held", "held 0")
    assert finished.run() == 0
    with start(held) as holder:
        assert holder.stderr is not None
        assert "lines" in holder.stderr.readline()
        idle = min(seconds_of(finished, 0) for _ in range(2))
        losing = min(seconds_of(held, 75) for _ in range(2))
        assert holder.poll() is None
        holder.kill()

    tell(f"locks: a loser takes {losing:.2f} s, a run with nothing to do {idle:.2f} s")
    assert losing - idle <= 0.5


def seconds_of(job: CrashJob, code: int) -> float:
    """Measure a run that ends with a code."""
    before = children_seconds()
    assert job.run() == code, job.messages.read_text()
    return children_seconds() - before


def test_process_left_behind_does_not_hold_the_lock(memory: Path, reference: Reference) -> None:
    """A child that outlives a killed run, whatever it inherited, stops nobody."""
    job, log = new_job(memory / "job", "0"), memory / "child"
    files = ["run", job.source, "-o", job.output]
    process = subprocess.Popen(
        [sys.executable, LINGERING_COMMAND, log, *files],
        stderr=subprocess.DEVNULL,
        env=os.environ | FIXED_START,
    )
    wait_until(lambda: log.exists() and log.read_text().endswith("\n"), process)
    child = int(log.read_text())
    process.kill()
    process.wait(HANG_SECONDS)
    try:
        assert job.run() == 0, job.messages.read_text()
    finally:
        os.kill(child, signal.SIGKILL)
    assert job.output.read_bytes() == reference.output
