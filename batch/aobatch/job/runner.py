"""A whole job: read, compute what is not known, publish."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from aobatch.errors import UsageError
from aobatch.executors import Backend
from aobatch.job.compute import compute, keep_lines
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.context import Job, Progress, Unwatched, begin_job
from aobatch.job.in_flight import InFlight
from aobatch.job.ledger import Answer, Ledger
from aobatch.job.paths import check_places, places_of
from aobatch.job.publish import check_depfile, check_uploads, publish, upload_files, write_depfile
from aobatch.job.report.usage import UsageReport, with_cost
from aobatch.job.source import check_inputs, check_output, open_source
from aobatch.job.state import StateFolder, open_state
from aobatch.job.status import FinishedJob, finish, read_finished


@dataclass(frozen=True, slots=True)
class JobOutcome:
    """A published job."""

    report: UsageReport
    was_finished: bool
    """An earlier run had published it and nothing changed since."""


def run_job(config: JobConfig, backend: Backend, progress: Progress | None = None) -> JobOutcome:
    """Answer every line of the inputs and publish the output, going on from an earlier run.

    A job that is finished is not run again; its files are made newer. Any exception, a
    KeyboardInterrupt too, leaves the results so far to the next run. JobError says in one
    sentence why the job cannot go on.
    """
    check_places(places_of(config))
    facts = check_inputs(config)
    check_output(config)
    check_depfile(config)
    check_uploads(config)
    with open_state(config) as state:
        source = open_source(config, state, facts)
        for each in source.inputs:
            each.identify(state)
        finished = _earlier_end(state, config, backend)
        was_finished = finished is not None and finished.is_current(source)
        if finished is not None and was_finished:
            models = {backend.resolve(name or config.model).path for name in finished.models}
            write_depfile(config, models)
            report = with_cost(finished.report, config.prices)
            finished.refresh(config, report)
        else:
            state.reopen_job()
            source.fetch(state)
            with closing(Ledger(state.ledger)) as ledger, InFlight(state.in_flight) as in_flight:
                job = begin_job(source, backend, ledger, in_flight, progress or Unwatched())
                report = _compute_and_publish(job)
            if config.output != STREAM:
                finish(state, job, report)
        upload_files(config, state)
        state.drop_copies()
    return JobOutcome(report, was_finished)


@contextmanager
def known_answers(config: JobConfig, backend: Backend) -> Iterator[Iterator[Answer]]:
    """Give what is known of each line of an unfinished job, which is computed no further.

    A line without a status code has no answer. JobError says why the job cannot be read.
    """
    with open_state(config) as state:
        source = open_source(config, state, check_inputs(config))
        for each in source.inputs:
            each.identify(state)
        with closing(Ledger(state.ledger)) as ledger, InFlight(state.in_flight) as in_flight:
            job = begin_job(source, backend, ledger, in_flight, Unwatched())
            keep_lines(job)
            yield ledger.answers()


def _earlier_end(state: StateFolder, config: JobConfig, backend: Backend) -> FinishedJob | None:
    """Read how an earlier run of this job ended; what belongs to another job is discarded.

    The output of a finished job is published, so nobody needs to be asked. None also if failed
    lines are to be tried again.
    """
    finished = read_finished(state)
    if finished is not None and not config.is_restart:
        _check_shard(finished, config)
    is_other = finished is not None and not finished.has_settings_of(config, backend)
    if config.is_restart or is_other:
        state.forget_job()
        return None
    is_retried = config.retries_failed and finished is not None and finished.report.requests.failed
    return None if is_retried else finished


def _check_shard(finished: FinishedJob, config: JobConfig) -> None:
    """Refuse to replace the answers of another shard, or of all, by those of a shard."""
    shard, earlier = config.selection.shard, finished.selection.shard
    if shard.count > 1 and shard != earlier:
        held = "all lines" if earlier.count == 1 else f"shard {earlier}"
        message = (
            f"{config.published} has the answers of {held}, and would have those of shard {shard} "
            "alone; put {shard} into its name, or discard them with --restart"
        )
        raise UsageError(message)


def _compute_and_publish(job: Job) -> UsageReport:
    try:
        compute(job)
    finally:
        job.progress.close()
    # Before the output: whoever sees that one has the newest of what it depends on.
    write_depfile(job.config, job.models.folders)
    return publish(job)
