"""Laws of jobs as recipes of make: targets are whole, and as new as make wants them."""

import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest
from crash_job import FIXED_START, CrashJob
from crash_laws import Reference, Watch, run_reference
from forking import ForkServer
from waiting import HANG_SECONDS, wait_until

LINES = b"".join(b'{"prompt":"number %d"}\n' % number for number in range(60))
OLD = b"old\n"


@pytest.fixture
def python(fork_server: ForkServer) -> Path:
    """Give what stands for Python in recipes."""
    fork_server.start()
    return fork_server.python


def new_job(folder: Path, pace: str, python: Path) -> CrashJob:
    """Give a job of the fake backend, and a Makefile whose only rule makes its output."""
    folder.mkdir()
    job = CrashJob(folder, pace)
    job.source.write_bytes(LINES)
    recipe = shlex.join([str(python), *job.command[1:]]).replace("$", "$$")
    rule = f".DELETE_ON_ERROR:\nout.jsonl: in.jsonl\n\t@{recipe}\n"
    (folder / "Makefile").write_text(rule)
    return job


@pytest.fixture
def job(tmp_path: Path, python: Path) -> CrashJob:
    """Give a job that waits in its middle for a file, and whose output is out of date."""
    job = new_job(tmp_path / "job", f"held 9 {tmp_path / 'gate'}", python)
    job.output.write_bytes(OLD)
    os.utime(job.output, (1, 1))
    return job


@pytest.fixture
def reference(tmp_path: Path, python: Path) -> Reference:
    """Run the job without make."""
    return run_reference(new_job(tmp_path / "reference", "0", python))


def start_make(job: CrashJob, *options: str) -> subprocess.Popen[str]:
    """Start make in a process group of its own, as a shell does."""
    return subprocess.Popen(
        ["make", "-C", job.folder, *options, "out.jsonl"],
        env=os.environ | FIXED_START,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def make(job: CrashJob, *options: str) -> int:
    """Run make to its end; give its exit code."""
    with start_make(job, *options) as process:
        process.communicate(timeout=HANG_SECONDS)
        return process.returncode


def interrupt(process: subprocess.Popen[str], job: CrashJob, number: signal.Signals) -> None:
    """Send a signal while requests are computed.

    SIGTERM goes to make alone, which passes it on; others, as from a terminal, go to all.
    """
    wait_until(lambda: len(job.taken()) >= 10, process)
    if number == signal.SIGTERM:
        process.send_signal(number)
    else:
        os.killpg(process.pid, number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_make_keeps_the_old_target(
    tmp_path: Path, job: CrashJob, reference: Reference, number: signal.Signals
) -> None:
    """Ctrl-C leaves the old target; make then goes on, and afterwards has nothing to do."""
    watch = Watch(job, reference, OLD)
    with start_make(job) as process:
        interrupt(process, job, number)
        said = process.communicate(timeout=HANG_SECONDS)[0]
    assert process.returncode not in {0, None}
    assert "Deleting" not in said
    assert f"stopped by {number.name}" in said
    watch.check_death(0)
    assert watch.recorded

    (tmp_path / "gate").touch()
    log_start = job.log_size()
    assert make(job) == 0
    assert watch.recorded & {*job.taken(log_start)} == set()
    assert job.output.read_bytes() == reference.output
    log_end = job.log_size()
    assert make(job) == 0
    assert make(job, "--question") == 0
    assert job.log_size() == log_end


def test_finished_job_is_made_newer_and_not_computed(
    tmp_path: Path, reference: Reference, python: Path
) -> None:
    """Make is content behind a source that was touched, and so it is behind a run by hand."""
    job = new_job(tmp_path / "job", "0", python)
    assert make(job) == 0
    log_end = job.log_size()
    for by_hand in (False, True):
        later = time.time() + 5
        os.utime(job.source, (later - 10, later - 10))
        os.utime(job.output, (later - 20, later - 20))
        assert make(job, "--question") == 1

        assert (job.run() if by_hand else make(job)) == 0

        assert make(job, "--question") == 0
    assert job.log_size() == log_end
    assert job.output.read_bytes() == reference.output


def test_target_that_make_deletes_is_written_again(tmp_path: Path, python: Path) -> None:
    """Where failed lines make the recipe fail, make deletes the target and no result is lost."""
    job = new_job(tmp_path / "job", "0", python)
    with job.source.open("ab") as stream:
        stream.write(b"nonsense\n")
    makefile = job.folder / "Makefile"
    makefile.write_text(makefile.read_text().replace("--max-failures 100%", "--max-failures 0"))
    assert make(job) == 2
    assert not job.output.exists()
    log_end = job.log_size()

    assert job.run() == 0

    assert job.log_size() == log_end
    assert len(job.output.read_bytes().splitlines()) == 61
