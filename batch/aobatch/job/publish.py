"""Results in the order of the input lines, and the output that appears with all of them."""

import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from aobatch.api.errors import ErrorObject, error_object, shorten
from aobatch.api.request import FailedLine
from aobatch.api.response import render_failure, render_success
from aobatch.errors import (
    InputMissingError,
    JobError,
    RequestError,
    UsageError,
    unwritable_output,
)
from aobatch.executors import package_version
from aobatch.files import check_creatable, replacing, write_whole
from aobatch.formats import remote, write_records
from aobatch.formats.keep import Extras
from aobatch.formats.remote import Remote
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.context import Job
from aobatch.job.events import publish_events
from aobatch.job.ledger import Answer
from aobatch.job.report.facts import finished_report, shown_settings
from aobatch.job.report.usage import FailedSample, UsageReport, UsageTally
from aobatch.job.source import digest_file
from aobatch.job.state import StateFolder
from aobatch.job.status import write_report
from aobatch.text import escape

MAX_SAMPLE = 300
"""Characters of an error that a report shows."""

UNWRITABLE = frozenset("%;|\t\n\r")
"""What make takes for something else however it is escaped."""


def check_depfile(config: JobConfig) -> None:
    """Refuse a dependency file that could not be written, before anything is computed."""
    if config.depfile is None:
        return
    if config.output == STREAM or config.uploads:
        message = "make follows files: name one with --output, or leave out --depfile"
        raise UsageError(message)
    check_creatable(config.depfile, "--depfile")
    for path in (config.output, *_named(config)):
        escape_for_make(path)


def write_depfile(config: JobConfig, models: Iterable[Path]) -> None:
    """Write what the output of a job depends on, if the job is to have such a file."""
    if config.depfile is None:
        return
    paths = [escape_for_make(path) for path in (*_named(config), *_files_of(models))]
    rule = " \\\n  ".join([f"{escape_for_make(config.output)}:", *paths])
    # Without a rule of its own, a file that is gone would stop make instead of a new run.
    gone = "".join(f"\n{path}:\n" for path in paths)
    write_whole(config.depfile, f"{rule}\n{gone}".encode(errors="surrogateescape"))


def escape_for_make(path: Path) -> str:
    """Write a path so that make reads it as one name; UsageError if there is no way."""
    text = str(path)
    if not UNWRITABLE.isdisjoint(text):
        message = f"make cannot take the name {text!r}; choose another one or leave out --depfile"
        raise UsageError(message)
    # Backslashes ahead of an escaped character are escapes themselves.
    escaped = re.sub(r"(\\*)([ #*:?\[\]])", r"\1\1\\\2", text)
    escaped = escaped.replace("$", "$$").replace("=", "$(or =)")
    return f"./{escaped}" if text.startswith("~") else escaped


def _named(config: JobConfig) -> list[Path]:
    """List the files that the job names; make knows none of those that are elsewhere."""
    paths = (*config.inputs, config.settings_file)
    return [path for path in paths if isinstance(path, Path) and path != STREAM]


def _files_of(models: Iterable[Path]) -> list[Path]:
    # A graph that was exported may be named itself, or lie in a folder of the folder.
    named = {model if model.is_dir() else model.parent for model in models if model.exists()}
    folders = sorted(named | {model / "onnx" for model in named if (model / "onnx").is_dir()})
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]


def publish(job: Job) -> UsageReport:
    """Write the output and its usage report; InputError if an input changed meanwhile."""
    for source in job.source.inputs:
        source.check_unchanged()
    output, tally = job.config.output, UsageTally()
    lines = _output_lines(job, tally)
    if output == STREAM:
        if sys.stdout.isatty() and job.config.is_text:
            lines = (escape(line.decode()).encode() for line in lines)
        _write_to_standard_output(lines, job)
        _write_failed_lines(job)
        return finished_report(job, tally)
    with replacing(output) as stream:
        write_records(lines, stream, output, _extras(job))
        report = finished_report(job, tally)
        # Before the output, so that the output is the newest file, as make wants it.
        _write_failed_lines(job)
        publish_events(job)
        write_report(report, output)
    # A part is tried ahead of the whole.
    if not job.config.selection.is_partial:
        # Lines that are no longer in the input would pile up in a job that is run each night.
        job.ledger.prune()
    return report


def _extras(job: Job, *, are_failures: bool = False) -> Extras:
    """Say what an output has beside its answers."""
    numbers = job.ledger.numbers(are_failures=are_failures)
    return Extras(job.source.id_type, job.source.kept_rows(numbers), _metadata(job))


def _metadata(job: Job) -> dict[str, str]:
    """Say in a table what it was made by and of."""
    models = {name or model.name: model.fingerprint for name, model in job.models.found.items()}
    inputs = [{"name": x.name, "digest": x.digest} for x in job.source.inputs]
    return {
        "aobatch.version": package_version(),
        "aobatch.models": msgspec.json.encode(models).decode(),
        "aobatch.settings": msgspec.json.encode(shown_settings(job.settings)).decode(),
        "aobatch.inputs": msgspec.json.encode(inputs).decode(),
    }


def _output_lines(job: Job, tally: UsageTally) -> Iterator[bytes]:
    """Yield the output line of every input line, adding each to the tally."""
    for answer in job.ledger.answers():
        if answer.status_code == 200 and answer.key and answer.body:
            reasons = answer.finish_reasons.split(",")
            tokens = (answer.prompt_tokens, answer.completion_tokens)
            measures = (*tokens, answer.seconds, answer.waited)
            tally.add_completion(answer.model, answer.user, reasons, measures)
            key, is_envelope = answer.key.hex(), bool(answer.is_envelope)
            yield render_success(key, answer.custom_id, is_envelope, answer.body)
        else:
            failed = _failed_line(job, answer)
            model = job.models.own_name if answer.model == "" else answer.model
            error = failed.error
            message = shorten(error.message, MAX_SAMPLE)
            place = failed.line_in_file or failed.line
            sample = FailedSample(place, failed.custom_id, error.code, message, failed.file)
            tally.add_failure(error.code, model, answer.user, sample)
            if not job.config.errors_apart:
                yield render_failure(failed)


def _failed_line(job: Job, answer: Answer) -> FailedLine:
    file, line = job.source.named_place(answer.number)
    if answer.body is not None and answer.status_code is not None:
        found, status = msgspec.json.decode(answer.body, type=ErrorObject), answer.status_code
    else:
        # Its model was given up after the line was read.
        error = job.models.find(answer.model)
        if not isinstance(error, RequestError):
            place = f"line {line}" if file is None else f"{file} line {line}"
            message = f"{place} has no result; run again"
            raise JobError(message)
        found, status = error_object(error), error.status_code
    identity = (answer.number, answer.custom_id, bool(answer.is_envelope))
    return FailedLine(*identity, found, status, file=file, line_in_file=line)


def _write_failed_lines(job: Job) -> None:
    """Write the failed lines into a file of their own as well, also if none failed."""
    path = job.config.errors
    if path is not None:
        failures = job.ledger.answers(are_failures=True)
        lines = (render_failure(_failed_line(job, failure)) for failure in failures)
        with replacing(path) as stream:
            write_records(lines, stream, path, _extras(job, are_failures=True))


def _write_to_standard_output(lines: Iterable[bytes], job: Job) -> None:
    try:
        stream = cast("BinaryIO", _StandardOutput())
        path = Path(f"stdout.{job.config.stream_format}")
        write_records(lines, stream, path, _extras(job))
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


class Uploaded(msgspec.Struct, frozen=True):
    """What was uploaded, and what its store said of it then."""

    digest: str
    identity: str | None


def upload_files(config: JobConfig, state: StateFolder) -> None:
    """Upload the files of a published job whose stores do not have them; the output comes last."""
    known = _read(state.uploaded)
    for path, target in config.uploads:
        digest = digest_file(path)
        uploaded = known.get(str(target))
        if uploaded is None or uploaded != Uploaded(digest, _identify(target)):
            remote.upload(path, target)
            known[str(target)] = Uploaded(digest, _identify(target))
            write_whole(state.uploaded, msgspec.json.encode(known))


def check_uploads(config: JobConfig) -> None:
    """Refuse stores that could not take the files, before anything is computed for them."""
    for _, target in config.uploads:
        remote.check_writable(target)


def _identify(target: Remote) -> str | None:
    try:
        return remote.identify(target)
    except InputMissingError:
        return None


def _read(path: Path) -> dict[str, Uploaded]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Uploaded])
    except (FileNotFoundError, msgspec.DecodeError):
        return {}
