"""Results in the order of the input lines, and the output that appears with all of them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aobatch.api.request import FailedLine, Request
from aobatch.api.response import failed_line, render_failure, render_success
from aobatch.errors import InputError, RequestError
from aobatch.formats import write_records
from aobatch.job.atomic import replacing
from aobatch.job.config import STREAM
from aobatch.job.context import Job
from aobatch.job.ledger import Record
from aobatch.job.marker import write_report
from aobatch.job.records import stored_error
from aobatch.job.report import CountedCompletion, UsageReport, UsageTally
from aobatch.text import escape


def publish(job: Job) -> UsageReport:
    """Write the output and its usage report; InputError if an input changed meanwhile."""
    tally = UsageTally()
    job.source.check_unchanged()
    output = job.config.output
    if output == STREAM:
        lines = output_lines(job, tally)
        if sys.stdout.isatty():
            lines = (escape(line.decode()).encode() for line in lines)
        write_records(lines, sys.stdout.buffer, Path("stdout.jsonl"))
        sys.stdout.flush()
        return tally.report(job.ledger.statistics)
    with replacing(output) as stream:
        write_records(output_lines(job, tally), stream, output)
        job.source.check_unchanged()
        report = tally.report(job.ledger.statistics)
        # Before the output, so that the output is the newest file, as make wants it.
        write_report(report, output)
    return report


def output_lines(job: Job, tally: UsageTally) -> Iterator[bytes]:
    """Yield the output line of every input line, adding each to the tally."""
    for line in job.source.lines():
        if isinstance(line, FailedLine):
            tally.add_failure(line.error.code, None, None)
            yield render_failure(line)
        else:
            yield _answer(job, line, tally)


def _answer(job: Job, request: Request, tally: UsageTally) -> bytes:
    record = _record_of(job, request)
    if isinstance(record, Record) and record.status_code == 200:
        completion = msgspec.json.decode(record.body, type=CountedCompletion)
        tally.add_completion(completion, request.body.user, record.seconds)
        return render_success(request, record.body)
    error = stored_error(record) if isinstance(record, Record) else record
    model = job.models.asked_name(request.body.model)
    tally.add_failure(error.code, model, request.body.user)
    return render_failure(failed_line(request, error))


def _record_of(job: Job, request: Request) -> Record | RequestError:
    model = job.models.find(request.body.model)
    if isinstance(model, RequestError):
        return model
    record = job.ledger.find(request.key)
    if record is None:
        message = "an input changed while the job ran; nothing was published, run again"
        raise InputError(message)
    return record
