"""Results in the order of the input lines, and the output that appears with all of them."""

import io
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, BinaryIO, cast

import msgspec

from aobatch.api.request import FailedLine, Request
from aobatch.api.response import failed_line, render_failure, render_success
from aobatch.errors import (
    InputError,
    InputMissingError,
    OutputError,
    RequestError,
    UsageError,
    unwritable_output,
)
from aobatch.files import replacing, write_whole
from aobatch.formats import remote, write_records
from aobatch.formats.remote import Remote
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.context import Job, stored_error
from aobatch.job.ledger import Record
from aobatch.job.report.facts import finished_report
from aobatch.job.report.usage import CountedCompletion, UsageReport, UsageTally
from aobatch.job.source import StateFolder, digest_file
from aobatch.job.status import write_report
from aobatch.text import escape

BY_BACKSLASH = frozenset(" #*:?[]")
BY_REFERENCE = {"$": "$$", "=": "$(or =)"}
UNWRITABLE = frozenset("%;|\t\n\r")
"""What make takes for something else however it is escaped."""


def check_depfile(config: JobConfig) -> None:
    """Refuse a dependency file that could not be written, before anything is computed."""
    if config.depfile is None:
        return
    if config.output == STREAM or config.uploads:
        message = "make follows files: name one with --output, or leave out --depfile"
        raise UsageError(message)
    if config.depfile in (config.output, config.errors, *config.inputs):
        message = f"--depfile {config.depfile} is a file of the job; name another one"
        raise UsageError(message)
    if not config.depfile.parent.is_dir():
        message = f"folder {config.depfile.parent} of --depfile does not exist; create it"
        raise OutputError(message)
    for path in (config.output, *_named(config)):
        escape_for_make(path)


def write_depfile(config: JobConfig, models: Iterable[Path]) -> None:
    """Write what the output of a job hangs on, if the job is to have such a file."""
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
    escaped = "".join(_escaped(text))
    return f"./{escaped}" if text.startswith("~") else escaped


def _escaped(text: str) -> Iterator[str]:
    num_backslashes = 0
    for character in text:
        if character in BY_BACKSLASH:
            # Backslashes ahead of an escaped character are escapes themselves.
            yield "\\" * num_backslashes + "\\"
        num_backslashes = num_backslashes + 1 if character == "\\" else 0
        yield BY_REFERENCE.get(character, character)


def _named(config: JobConfig) -> list[Path]:
    """Give the files that the job names; make knows none of those that are elsewhere."""
    paths = (*config.inputs, config.settings_file)
    return [path for path in paths if isinstance(path, Path) and path != STREAM]


def _files_of(models: Iterable[Path]) -> list[Path]:
    # A graph that was exported may be named itself, or lie in a folder of the folder.
    named = {model if model.is_dir() else model.parent for model in models if model.exists()}
    folders = sorted(named | {model / "onnx" for model in named if (model / "onnx").is_dir()})
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]


MAX_BYTES_IN_MEMORY = 2**20


class FailedLines:
    """Keeps failed lines until all are known; they pass through a file that has no name."""

    def __init__(self, path: Path | None) -> None:
        """Keep nothing if path is None."""
        self._path = path
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> "FailedLines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def add(self, record: bytes) -> bytes:
        """Keep a line, and give it back."""
        if self._path is not None:
            if self._lines is None:
                self._lines = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - see __exit__
                    MAX_BYTES_IN_MEMORY, dir=str(self._path.parent)
                )
            self._lines.write(record + b"\n")
        return record

    def publish(self) -> None:
        """Write the file, also if no line failed."""
        if self._path is None:
            return
        with replacing(self._path) as stream:
            write_records(self._records(), stream, self._path)

    def _records(self) -> Iterator[bytes]:
        if self._lines is not None:
            self._lines.seek(0)
            yield from (line.removesuffix(b"\n") for line in self._lines)


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
            _upload(path, target)
            known[str(target)] = Uploaded(digest, _identify(target))
            write_whole(state.uploaded, msgspec.json.encode(known))


def check_uploads(config: JobConfig) -> None:
    """Refuse stores that could not take the files, before anything is computed for them."""
    for _, target in config.uploads:
        remote.check_writable(target)


def _upload(path: Path, target: Remote) -> None:
    """Upload a file in a thread of its own, so that a signal is heard meanwhile.

    A store shows an object when its stream is closed. A thread that is left behind closes it with
    all bytes, or dies with the process before: never with a part of them.
    """
    failures: list[Exception] = []

    def upload() -> None:
        try:
            remote.upload(path, target)
        except Exception as error:  # noqa: BLE001 - raised again below, in the caller's thread
            failures.append(error)

    thread = threading.Thread(target=upload, name=f"upload of {path.name}", daemon=True)
    thread.start()
    thread.join()
    for failure in failures:
        raise failure


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
