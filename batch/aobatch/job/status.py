"""How far a job is, read beside the run that may be working on it."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.errors import InputError, InputMissingError, RequestError
from aobatch.executors import Backend, Statistics
from aobatch.files import describe_holder, storage_errors, write_whole
from aobatch.job.config import JobConfig, Selection
from aobatch.job.context import Job, result_settings
from aobatch.job.ledger import is_begun, read_statistics, reading
from aobatch.job.report.usage import UsageReport, report_json, report_path
from aobatch.job.source import Source, StateFolder, digest_file, state_path


class Marker(msgspec.Struct, frozen=True):
    """A finished job: what went in, what came out, and what it hung on."""

    inputs: tuple[str, ...]
    output: str
    settings: dict[str, str]
    models: dict[str, str]
    report: UsageReport
    selection: Selection = Selection()
    errors: str | None = None
    """The digest of the file of failed lines, if there is one."""


def mark_finished(path: Path, job: Job, report: UsageReport) -> None:
    """Note that a job is published."""
    output = digest_file(job.config.output)
    models = job.models.fingerprints
    selection = job.config.selection
    errors = digest_file(job.config.errors) if job.config.errors else None
    inputs, settings = job.source.digests, dict(job.settings)
    write_marker(path, Marker(inputs, output, settings, models, report, selection, errors))


def write_marker(path: Path, marker: Marker) -> None:
    """Write what is known of a finished job."""
    write_whole(path, msgspec.json.encode(marker))


def read_marker(path: Path) -> Marker | None:
    """Give the marker of a finished job, None if there is none or it is damaged."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Marker)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def has_same_settings(marker: Marker, config: JobConfig, backend: Backend) -> bool:
    """Say whether a job as it is asked for now would give a request the same result."""
    is_same = marker.settings == result_settings(config, backend)
    return is_same and _has_same_models(marker, config, backend)


def is_current(marker: Marker, source: Source) -> bool:
    """Say whether inputs, chosen lines and output are as they were when the job was finished."""
    output = source.config.output
    return (
        marker.inputs == source.digests
        and marker.selection == source.config.selection
        and output.is_file()
        and marker.output == digest_file(output)
        and _has_errors(marker, source.config.errors)
    )


def _has_errors(marker: Marker, errors: Path | None) -> bool:
    return errors is None or (errors.is_file() and marker.errors == digest_file(errors))


def model_folders(marker: Marker, config: JobConfig, backend: Backend) -> list[Path]:
    """Give the folders of the models that a finished job used."""
    return [backend.resolve(name or config.model).path for name in marker.models]


def refresh(report: UsageReport, output: Path) -> None:
    """Make the files of a finished job newer than its inputs, as make wants them."""
    write_report(report, output)
    with storage_errors(output):
        os.utime(output)


def write_report(report: UsageReport, output: Path) -> None:
    """Write the usage report beside the output."""
    write_whole(report_path(output), report_json(report))


def _has_same_models(marker: Marker, config: JobConfig, backend: Backend) -> bool:
    try:
        return all(
            backend.resolve(name or config.model).fingerprint == fingerprint
            for name, fingerprint in marker.models.items()
        )
    except RequestError:
        return False


_COUNTS = """
SELECT coalesce((SELECT value FROM facts WHERE name = 'lines'), 0),
       (SELECT count(*) FROM lines WHERE key IS NULL),
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
            seconds = marker.report.counted.wall_seconds
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
    statistics = Statistics()
    if is_begun(state.ledger):
        with reading(state.ledger) as connection:
            row = connection.execute(_COUNTS).fetchone()
            lines, num_bad, num_results, num_failed, num_prompt, num_tokens = row
            statistics = read_statistics(connection)
    return JobStatus(
        state="running" if holder else "interrupted",
        lines=lines,
        answered=num_results + num_bad,
        failed=num_failed + num_bad,
        prompt_tokens=num_prompt,
        completion_tokens=num_tokens,
        seconds=statistics.job_seconds,
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
