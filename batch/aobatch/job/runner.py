"""A whole job: read, compute what is not known, publish."""

from contextlib import closing
from dataclasses import dataclass

from aobatch.executors import Backend
from aobatch.job.compute import compute
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.context import Job, begin_job
from aobatch.job.ledger import Ledger
from aobatch.job.marker import finished_job, mark_finished, refresh
from aobatch.job.progress import Progress, Silent
from aobatch.job.publish import publish
from aobatch.job.report import UsageReport
from aobatch.job.source import check_inputs, open_source
from aobatch.job.state import check_output, open_state


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
    check_inputs(config)
    check_output(config)
    with open_state(config) as state:
        source = open_source(config, state)
        marker = finished_job(state.marker, source, backend)
        if marker is not None:
            refresh(marker, config.output)
            state.drop_results()
            return JobOutcome(marker.report, was_finished=True)
        if config.is_restart or state.marker.exists():
            state.forget_job()
        with closing(Ledger(state.ledger)) as ledger:
            job = begin_job(source, backend, ledger, progress or Silent())
            report = _compute_and_publish(job)
        if config.output != STREAM:
            mark_finished(state.marker, job, report)
        state.drop_results()
    return JobOutcome(report, was_finished=False)


def _compute_and_publish(job: Job) -> UsageReport:
    try:
        compute(job)
    finally:
        job.progress.close()
    return publish(job)
