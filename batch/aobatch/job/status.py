"""What a state folder says of its job: that it is finished and with what, or how far it is."""

import os
from pathlib import Path
from typing import Literal

import msgspec

from aobatch.errors import InputError, InputMissingError, ModelNotFoundError
from aobatch.executors import Backend, Statistics
from aobatch.files import lock_holder, storage_errors, write_whole
from aobatch.job.config import JobConfig, Selection
from aobatch.job.context import Job, result_settings
from aobatch.job.events import events_digest
from aobatch.job.ledger import is_begun, read_statistics, reading
from aobatch.job.report.usage import UsageReport, report_json, report_path
from aobatch.job.source import Source, digest_file
from aobatch.job.state import StateFolder, state_path


class FinishedJob(msgspec.Struct, frozen=True):
    """A job that was published: digests of what went in and came out, and what shaped it."""

    inputs: tuple[str, ...]
    output: str
    settings: dict[str, str]
    models: dict[str, str]
    """Fingerprints by the names that lines give, "" for the job's own model."""
    report: UsageReport
    selection: Selection = Selection()
    errors: str | None = None
    """The digest of the file of failed lines, if there is one."""
    keep: tuple[str, ...] = ()
    """The columns of the inputs that the output has."""
    events: str | None = None
    """What `events_digest` said of its event files; None if nobody asked."""
    own_name: str | None = None
    """What the job's own model is called in responses, None if no line asked for it."""

    def write(self, state: StateFolder) -> None:
        """Keep it for the next run of the job."""
        write_whole(state.finished, msgspec.json.encode(self))

    def has_settings_of(self, config: JobConfig, backend: Backend) -> bool:
        """Say whether a job as it is asked for now would give a request the same result."""
        try:
            if self.settings != result_settings(config, backend):
                return False
            for name, fingerprint in self.models.items():
                found = backend.resolve(name or config.model, fingerprint)
                asked = name or config.model or found.name
                is_named_so = name or self.own_name in {None, asked}
                if found.fingerprint != fingerprint or not is_named_so:
                    return False
        except ModelNotFoundError:
            return False
        return True

    def is_current(self, source: Source) -> bool:
        """Say whether inputs, chosen lines and output are as they were when it was finished."""
        config = source.config
        return (
            self.inputs == source.digests
            and self.selection == config.selection
            and self.keep == config.keep
            and _is_still(config.output, self.output)
            and (config.errors is None or _is_still(config.errors, self.errors))
            and self.events in (None, events_digest(config.output))
        )

    def refresh(self, config: JobConfig, report: UsageReport) -> None:
        """Make the files newer than the inputs, as make wants them."""
        write_report(report, config.output)
        with storage_errors(config.output):
            os.utime(config.output)


def read_finished(state: StateFolder) -> FinishedJob | None:
    """Read what is known of the end of a job; None if it did not end, or that is damaged."""
    try:
        return msgspec.json.decode(state.finished.read_bytes(), type=FinishedJob)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def finish(state: StateFolder, job: Job, report: UsageReport) -> None:
    """Note that a job is published."""
    config = job.config
    FinishedJob(
        job.source.digests,
        digest_file(config.output),
        dict(job.settings),
        {name: model.fingerprint for name, model in job.models.found.items()},
        report,
        config.selection,
        digest_file(config.errors) if config.errors else None,
        config.keep,
        events_digest(config.output),
        job.models.own_name if "" in job.models.found else None,
    ).write(state)


def write_report(report: UsageReport, output: Path) -> None:
    """Write the usage report beside the output."""
    write_whole(report_path(output), report_json(report))


def _is_still(path: Path, digest: str | None) -> bool:
    return path.is_file() and digest_file(path) == digest


_COUNTS = """
SELECT coalesce((SELECT value FROM facts WHERE name = 'lines'), 0),
       (SELECT count(*) FROM failed_lines),
       count(*),
       coalesce(sum(status_code <> 200), 0),
       coalesce(sum(prompt_tokens), 0),
       coalesce(sum(completion_tokens), 0)
FROM results WHERE is_used
"""


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
    holder = lock_holder(state.lock)
    finished = read_finished(state)
    if finished is not None and holder is None:
        counts, usage = finished.report.requests, finished.report.usage
        tokens = (usage.prompt_tokens, usage.completion_tokens)
        numbers = (counts.total, counts.total, counts.failed, *tokens)
        return JobStatus("finished", *numbers, finished.report.counted.wall_seconds, None)
    lines = num_bad = num_results = num_failed = num_prompt = num_new = 0
    statistics = Statistics()
    if is_begun(state.ledger):
        with reading(state.ledger) as connection:
            row = connection.execute(_COUNTS).fetchone()
            lines, num_bad, num_results, num_failed, num_prompt, num_new = row
            statistics = read_statistics(connection)
    answered, failed = num_results + num_bad, num_failed + num_bad
    numbers = (lines, answered, failed, num_prompt, num_new)
    seconds = statistics.job_seconds
    return JobStatus("running" if holder else "interrupted", *numbers, seconds, holder)


def began_at(output: Path) -> float | None:
    """Look up when an unfinished job of an output began, in Unix seconds, None if none did."""
    state = StateFolder(state_path(JobConfig((), output)))
    if not state.ledger.exists() or read_finished(state) is not None:
        return None
    query = "SELECT value FROM settings WHERE name = 'created'"
    try:
        with reading(state.ledger) as connection:
            row = connection.execute(query).fetchone()
    except InputError:
        return None
    return float(row[0]) if row else None
