"""Laws of storage that fails: whichever call it is, the job says so, and the next run goes on."""

import errno
import io
import itertools
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_job import CrashJob
from failing_calls import KINDS, FailingCall
from fakes import FakeBackend
from job_files import PROMPTS, requests, write_input

from aobatch.errors import JobError
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.runner import run_job

WAYS = tuple(itertools.product((errno.ENOSPC, errno.EIO, errno.EDQUOT), (False, True)))
"""Errors, and whether they last."""


def write_lines(folder: Path) -> JobConfig:
    """Write the input of a job; give what it is to do."""
    folder.mkdir()
    lines = [*requests(PROMPTS), {"prompt": "streamed", "stream": True}, b"nonsense"]
    source = write_input(folder / "in.jsonl", lines)
    return JobConfig((source,), folder / "out.jsonl")


def fresh(folder: Path) -> JobConfig:
    """Give a job that has not run."""
    return write_lines(folder)


def stopped(folder: Path) -> JobConfig:
    """Give a job that was stopped at its fourth result."""
    config = write_lines(folder)
    with pytest.raises(KeyboardInterrupt):
        run_job(config, FakeBackend(explosion=KeyboardInterrupt(), explodes_at=3))
    return config


def finished(folder: Path) -> JobConfig:
    """Give a job that is finished."""
    config = write_lines(folder)
    run_job(config, FakeBackend())
    return config


def changed(folder: Path) -> JobConfig:
    """Give a job whose input has one more line than when it was finished."""
    config = finished(folder)
    with config.inputs[0].open("ab") as stream:
        stream.write(b'{"prompt":"added"}\n')
    return config


def restarted(folder: Path) -> JobConfig:
    """Give a finished job that is to begin anew."""
    config = finished(folder)
    return JobConfig(config.inputs, config.output, is_restart=True)


def piped(folder: Path) -> JobConfig:
    """Give a job that reads standard input."""
    config = write_lines(folder)
    return JobConfig((STREAM,), config.output)


STAGES = (fresh, stopped, finished, changed, restarted, piped)


@pytest.fixture(autouse=True)
def _fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every job the same start, so that outputs can be compared byte by byte."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
@pytest.mark.parametrize(
    "is_long",
    [pytest.param(False, id="short"), pytest.param(True, id="long", marks=pytest.mark.long)],
)
def test_any_call_may_fail(
    memory: Path,
    monkeypatch: pytest.MonkeyPatch,
    tell: Callable[[str], None],
    stage: Callable[[Path], JobConfig],
    is_long: bool,
) -> None:
    """A failing call ends the job with code 73 or 74 and a path; later the bytes are the same.

    The short form lets each call fail in one way, and of the many statements every fifth.
    """
    job, prepared = memory / "job", memory / "prepared"
    config = stage(job)
    shutil.copytree(job, prepared)
    run(monkeypatch, config, FakeBackend())
    expected, counts = config.output.read_bytes(), dict.fromkeys(KINDS, 0)
    for kind in KINDS:
        step = 5 if kind == "sqlite" and not is_long else 1
        for index in itertools.count(step=step):
            ways = WAYS if is_long else WAYS[index // step % len(WAYS) :][:1]
            calls = [FailingCall(kind, index, *way) for way in ways]
            for call in calls:
                shutil.rmtree(job)
                shutil.copytree(prepared, job)
                check_failing_call(monkeypatch, config, call, expected)
            if not any(call.has_failed for call in calls):
                break
            counts[kind] += len(calls)

    tell(f"failing calls, {stage.__name__}: {sum(counts.values())} ({counts}); all resumed")
    assert counts["fsync"] > 0


def check_failing_call(
    monkeypatch: pytest.MonkeyPatch, config: JobConfig, call: FailingCall, expected: bytes
) -> None:
    """Run a job while a call fails, and again."""
    output = config.output
    before = output.read_bytes() if output.exists() else None
    with call.installed():
        error = error_of(monkeypatch, config)
    after = output.read_bytes() if output.exists() else None
    if error is None:
        assert after == expected, call
    else:
        assert error.exit_code in {73, 74}, (call, error)
        assert str(output) in str(error), (call, error)
        assert after in {before, expected}, call
    recorded = CrashJob(output.parent, "0").recorded()
    backend = FakeBackend()

    run(monkeypatch, JobConfig(config.inputs, output), backend)

    assert output.read_bytes() == expected, call
    assert recorded & {*backend.computed} == set(), call
    assert not list(output.parent.glob(".*")), call


def error_of(monkeypatch: pytest.MonkeyPatch, config: JobConfig) -> JobError | None:
    """Run a job; give what it ends with, if not well."""
    try:
        run(monkeypatch, config, FakeBackend())
    except JobError as error:
        return error
    return None


def run(monkeypatch: pytest.MonkeyPatch, config: JobConfig, backend: FakeBackend) -> None:
    """Run a job; piped in is what its input holds."""
    if STREAM in config.inputs:
        content = config.output.with_name("in.jsonl").read_bytes()
        standard = io.TextIOWrapper(io.BytesIO(content))
        monkeypatch.setattr(sys, "stdin", standard)
    run_job(config, backend)
