"""How far a job is, read beside the run that may be working on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.errors import InputError, InputMissingError
from aobatch.files import describe_holder
from aobatch.job.config import JobConfig
from aobatch.job.database import is_begun, reading
from aobatch.job.marker import read_marker
from aobatch.job.state import StateFolder, state_path

_COUNTS = """
SELECT coalesce((SELECT value FROM facts WHERE name = 'lines'), 0),
       coalesce((SELECT value FROM facts WHERE name = 'bad lines'), 0),
       (SELECT count(*) FROM results),
       (SELECT count(*) FROM results WHERE status_code <> 200),
       (SELECT coalesce(sum(prompt_tokens), 0) FROM results),
       (SELECT coalesce(sum(completion_tokens), 0) FROM results)
"""

_BEGINNING = "SELECT value FROM settings WHERE name = 'created'"


class JobStatus(msgspec.Struct, frozen=True):
    """What `aobatch status` says."""

    state: Literal["running", "interrupted", "finished"]
    lines: int
    """Of the inputs, as the last run counted them."""
    answered: int
    """Lines that have their output line, failed ones too."""
    failed: int
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Wall time of all runs so far, without fetching models."""
    holder: str | None
    """The run that is at work."""

    @property
    def seconds_left(self) -> float | None:
        """Guess, from the lines so far, how long the rest will take; None if nothing is known."""
        if not self.answered or self.state == "finished":
            return None
        return self.seconds / self.answered * max(0, self.lines - self.answered)


def job_status(output: Path) -> JobStatus:
    """Say how far the job of an output is; InputMissingError if there is none."""
    state = StateFolder(state_path(JobConfig((), output)))
    if not state.path.is_dir():
        message = f"{output} is not the output of a job: there is no {state.path}"
        raise InputMissingError(message)
    with _holder(state.lock) as holder:
        marker = read_marker(state.marker)
        if marker is not None and holder is None:
            counts, usage = marker.report.requests, marker.report.usage
            seconds = marker.report.statistics.get("wall_seconds", 0.0)
            tokens = (usage.prompt_tokens, usage.completion_tokens)
            numbers = (counts.total, counts.total, counts.failed, *tokens)
            return JobStatus("finished", *numbers, seconds, None)
        return _unfinished(state, holder)


def began_at(output: Path) -> float | None:
    """Give when an unfinished job of an output began, in Unix seconds, None if there is none."""
    state = StateFolder(state_path(JobConfig((), output)))
    if not state.ledger.exists() or read_marker(state.marker) is not None:
        return None
    try:
        with reading(state.ledger) as connection:
            row = connection.execute(_BEGINNING).fetchone()
    except InputError:
        return None
    return float(row[0]) if row else None


def _unfinished(state: StateFolder, holder: str | None) -> JobStatus:
    lines = num_bad = num_results = num_failed = num_prompt = num_tokens = 0
    statistics: dict[str, float] = {}
    if is_begun(state.ledger):
        with reading(state.ledger) as connection:
            row = connection.execute(_COUNTS).fetchone()
            lines, num_bad, num_results, num_failed, num_prompt, num_tokens = row
            statistics = dict(connection.execute("SELECT name, value FROM statistics"))
    return JobStatus(
        state="running" if holder else "interrupted",
        lines=lines,
        answered=num_results + num_bad,
        failed=num_failed + num_bad,
        prompt_tokens=num_prompt,
        completion_tokens=num_tokens,
        seconds=statistics.get("wall_seconds", 0.0) - statistics.get("model_seconds", 0.0),
        holder=holder,
    )


@contextmanager
def _holder(path: Path) -> Iterator[str | None]:
    """Give the run that holds a job's lock, None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        # A run that begins in this very moment tries again, see `hold_lock`.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        yield None
    except BlockingIOError:
        yield describe_holder(descriptor)
    finally:
        os.close(descriptor)
