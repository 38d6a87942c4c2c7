"""Results in the order of the input lines, and the output that appears with all of them."""

import io
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from aobatch.api.request import FailedLine, Request
from aobatch.api.response import failed_line, render_failure, render_success
from aobatch.errors import InputError, RequestError, unwritable_output
from aobatch.files import replacing
from aobatch.formats import write_records
from aobatch.job.config import STREAM
from aobatch.job.context import Job
from aobatch.job.facts import finished_report
from aobatch.job.failed_lines import FailedLines
from aobatch.job.ledger import Record
from aobatch.job.marker import write_report
from aobatch.job.records import stored_error
from aobatch.job.report import CountedCompletion, UsageReport, UsageTally
from aobatch.text import escape

GROUP_LINES = 32
"""Lines whose results are looked up together; each may take megabytes."""


def publish(job: Job) -> UsageReport:
    """Write the output and its usage report; InputError if an input changed meanwhile."""
    job.source.check_unchanged()
    with FailedLines(job.config.errors) as failed_lines:
        answers = Answers(job, UsageTally(), failed_lines)
        report = _write(job, answers, failed_lines)
    # A part is tried ahead of the whole, and standard output has no state.
    is_all = job.config.output != STREAM and not job.config.selection.is_partial
    if is_all and answers.num_recorded < len(job.ledger):
        # Lines that are no longer in the input would pile up in a job that is run each night.
        requests = (line for line in job.source.lines() if isinstance(line, Request))
        job.ledger.keep_only(request.key for request in requests)
    return report


def _write(job: Job, answers: "Answers", failed_lines: FailedLines) -> UsageReport:
    output = job.config.output
    if output == STREAM:
        lines: Iterable[bytes] = answers.lines()
        if sys.stdout.isatty() and job.config.is_text:
            lines = (escape(line.decode()).encode() for line in lines)
        _write_to_standard_output(lines, job.config.stream_format)
        failed_lines.publish()
        return finished_report(job, answers.tally)
    with replacing(output) as stream:
        write_records(answers.lines(), stream, output)
        job.source.check_unchanged()
        report = finished_report(job, answers.tally)
        # Before the output, so that the output is the newest file, as make wants it.
        failed_lines.publish()
        write_report(report, output)
    return report


def _write_to_standard_output(lines: Iterable[bytes], stream_format: str) -> None:
    try:
        stream = cast("BinaryIO", _StandardOutput())
        write_records(lines, stream, Path(f"stdout.{stream_format}"))
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable_output(error) from error


class _StandardOutput(io.BufferedIOBase):
    """Standard output for writers that close what they write to."""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        return sys.stdout.buffer.write(data)


class Answers:
    """The output lines of a job that has all results."""

    def __init__(self, job: Job, tally: UsageTally, failed_lines: FailedLines) -> None:
        self.num_recorded = 0
        """Results of the ledger that were written."""
        self.tally = tally
        """What the lines so far add up to."""
        self._job = job
        self._failed_lines = failed_lines

    def lines(self) -> Iterator[bytes]:
        """Yield the output line of every input line, adding each to the tally."""
        lines = self._job.source.lines()
        while group := list(islice(lines, GROUP_LINES)):
            keys = [line.key for line in group if isinstance(line, Request)]
            records = self._job.ledger.find_all(keys)
            for line in group:
                if isinstance(line, FailedLine):
                    self.tally.add_failure(line.error.code, None, None)
                    yield self._failed_lines.add(render_failure(line))
                else:
                    yield self._answer(line, records.get(line.key))

    def _answer(self, request: Request, found: Record | None) -> bytes:
        record = self._check(request, found)
        if isinstance(record, Record) and record.status_code == 200:
            completion = msgspec.json.decode(record.body, type=CountedCompletion)
            self.tally.add_completion(completion, request.body.user, record.seconds)
            return render_success(request, record.body)
        error = stored_error(record) if isinstance(record, Record) else record
        model = self._job.models.asked_name(request.body.model)
        self.tally.add_failure(error.code, model, request.body.user)
        return self._failed_lines.add(render_failure(failed_line(request, error)))

    def _check(self, request: Request, record: Record | None) -> Record | RequestError:
        model = self._job.models.find(request.body.model)
        if record is not None:
            self.num_recorded += 1
            return record
        if isinstance(model, RequestError):
            return model
        message = "an input changed while the job ran; nothing was published, run again"
        raise InputError(message)
