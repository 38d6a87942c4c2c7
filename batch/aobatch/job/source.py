"""The input files of a job as one sequence of lines that can be read again and again."""

import hashlib
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from aobatch.api.request import FailedLine, Parser, Request
from aobatch.errors import InputError, OutputError, RequestError, UsageError
from aobatch.files import check_name, hold_lock, replacing, storage_errors, sync_folder
from aobatch.formats import Row, find_format, read_rows
from aobatch.formats.compression import check_input, exists
from aobatch.formats.remote import Location, Remote, identify
from aobatch.job.config import STREAM, JobConfig, Selection, default_output, local_path
from aobatch.job.report.usage import report_path


@dataclass(frozen=True, slots=True)
class StateFolder:
    """The files of a state folder; the run that holds its lock owns them."""

    path: Path

    @property
    def ledger(self) -> Path:
        """The results of the job, also when it is finished, so that a longer input keeps them."""
        return self.path / "ledger.sqlite3"

    @property
    def lock(self) -> Path:
        """What the run that owns the folder has locked."""
        return self.path / "lock"

    @property
    def in_flight(self) -> Path:
        """The requests that a run has taken up."""
        return self.path / "in-flight"

    @property
    def marker(self) -> Path:
        """What a finished job was, so that running it again does nothing."""
        return self.path / "done.json"

    @property
    def uploaded(self) -> Path:
        """What a finished job has uploaded."""
        return self.path / "uploaded.json"

    def spool(self, stream_format: str) -> Path:
        """Name the file that keeps standard input, so that it can be read twice."""
        return self.path / f"stdin.{stream_format}"

    def reopen_job(self) -> None:
        """Discard what is known of the end of an earlier job, and keep its results."""
        self._drop(self.marker)

    def forget_job(self) -> None:
        """Discard the results of an earlier job and what is known of its end."""
        # The marker last: while it is there, the next run goes on discarding.
        ledger = [self.ledger.with_name(self.ledger.name + end) for end in ("-wal", "-shm", "")]
        self._drop(*ledger, self.in_flight, self.marker)

    def drop_spool(self) -> None:
        """Discard what a finished job no longer needs."""
        self._drop(*self.path.glob("stdin.*"))

    def _drop(self, *paths: Path) -> None:
        """Remove files for good, in this order."""
        with storage_errors(self.path):
            for path in paths:
                path.unlink(missing_ok=True)
            sync_folder(self.path)


@contextmanager
def open_state(config: JobConfig) -> Iterator[StateFolder]:
    """Own the state folder of a job while the block runs; BusyError if another run does."""
    if config.output == STREAM and STREAM in config.inputs:
        with tempfile.TemporaryDirectory(prefix="aobatch-") as folder:
            yield StateFolder(Path(folder))
        return
    state = StateFolder(state_path(config))
    with storage_errors(state.path):
        if config.output == STREAM:
            state.path.parent.mkdir(parents=True, exist_ok=True)
        state.path.mkdir(mode=0o700, exist_ok=True)
        sync_folder(state.path.parent)
    with hold_lock(state.lock):
        yield state
        if config.output == STREAM:
            shutil.rmtree(state.path)


def check_output(config: JobConfig) -> None:
    """Refuse an output that could not be published, before anything is computed for it."""
    output = config.output
    if output != STREAM:
        _check_file(output, config, "output")
        check_name(report_path(output))
    elif sys.stdout is None:
        message = "standard output is closed; name a file with --output"
        raise OutputError(message)
    elif sys.stdout.isatty() and not config.is_text:
        message = f"{config.stream_format} is nothing for a terminal; redirect it to a file or pipe"
        raise UsageError(message)
    if config.errors is not None:
        _check_file(config.errors, config, "errors")
        if config.errors == output:
            message = f"errors {output} is also the output; name another file with --errors"
            raise UsageError(message)


def _check_file(path: Path, config: JobConfig, role: str) -> None:
    find_format(path)
    with storage_errors(path):
        is_there = exists(path)
    if is_there and not path.is_file():
        message = f"{role} {path} is not a regular file; name a file"
        raise OutputError(message)
    if not path.parent.is_dir():
        message = f"folder {path.parent} of the {role} does not exist; create it"
        raise OutputError(message)
    inputs = [source for source in config.inputs if isinstance(source, Path)]
    if is_there and any(source.exists() and path.samefile(source) for source in inputs):
        message = f"{role} {path} is also an input; name another file with --{role}"
        raise UsageError(message)


def spool_standard_input(path: Path) -> None:
    """Keep standard input as a file."""
    with replacing(path) as stream:
        shutil.copyfileobj(sys.stdin.buffer, stream)


def state_path(config: JobConfig) -> Path:
    """Name the state folder of a job."""
    if config.output == STREAM:
        output = default_output(config.inputs[0], config.selection.shard)
        return local_path(output, None).with_suffix(".stdout.aobatch")
    return config.output.with_name(f"{config.output.name}.aobatch")


@dataclass(frozen=True, slots=True)
class Source:
    """Lines of all inputs in order, numbered as if the files were one."""

    config: JobConfig
    paths: tuple[Location, ...]
    digests: tuple[str, ...]
    """Of each input as it was when the job began, see `identify_input`."""
    threshold: int = 0
    """Where the job's sample ends, if it answers one."""

    def lines(self) -> Iterator[Request | FailedLine]:
        """Parse every line anew and yield those of the job; the same bytes give the same keys."""
        parser = new_parser(self.config)
        for row, is_chosen in self._chosen():
            # Others are parsed too, since equal requests before it are part of a line's key.
            if row.error is None and row.fields is None:
                line = parser.parse(row.number, row.raw)
            else:
                line = parser.parse_fields(row.number, row.fields or {}, row.error)
            if is_chosen:
                yield line

    def rows(self) -> Iterator[Row]:
        """Read every row anew."""
        first = 0
        for path, named in zip(self.paths, self.config.inputs, strict=True):
            number = 0
            with _told_of(path, named):
                for row in read_rows(path, self.config.max_line_bytes, self.config.table_columns):
                    number = row.number
                    yield Row(first + number, row.raw, row.error, row.fields) if first else row
            first += number

    def count(self) -> int:
        """Count the lines of the job."""
        if self.config.selection == Selection():
            return sum(map(self._count, self.paths, self.config.inputs))
        return sum(is_chosen for _, is_chosen in self._chosen())

    def _count(self, path: Location, named: Location) -> int:
        with _told_of(path, named):
            return find_format(path).count_rows(path, self.config.max_line_bytes)

    def _chosen(self) -> Iterator[tuple[Row, bool]]:
        return self.config.selection.choose(self.rows(), self.threshold)

    def check_unchanged(self) -> None:
        """Refuse to go on if an input is not what it was when the job began."""
        for path, digest in zip(self.paths, self.digests, strict=True):
            if identify_input(path) != digest:
                message = (
                    f"input {path} changed while the job ran; nothing was published, run again"
                )
                raise InputError(message)


@contextmanager
def _told_of(path: Location, named: Location) -> Iterator[None]:
    """Let errors of the file that keeps standard input speak of standard input."""
    try:
        yield
    except InputError as error:
        if named != STREAM:
            raise
        raise InputError(str(error).replace(str(path), "standard input")) from error


def new_parser(config: JobConfig) -> Parser:
    """Give a parser at the first line; UsageError if a default of the job is wrong."""
    try:
        return Parser(config.defaults, config.limits, config.ignore_unknown, config.overrides)
    except RequestError as error:
        message = f"a default or override of the job is wrong: {error.message}"
        raise UsageError(message) from error


def check_columns(config: JobConfig) -> None:
    """Refuse columns where no input has any."""
    stream = Path(f"stdin.{config.stream_format}")
    files = [stream if path == STREAM else path for path in config.inputs]
    if config.columns and not any(find_format(path).is_table for path in files):
        message = "--column is for tables such as Parquet, and no input is one"
        raise UsageError(message)


def check_inputs(config: JobConfig) -> None:
    """Refuse wrong defaults, overrides and inputs that are missing or of no known format."""
    new_parser(config)
    config.table_columns.check()
    for path in config.inputs:
        if path != STREAM:
            check_input(path)
            find_format(path).check(path, config.table_columns)
        elif sys.stdin is None or sys.stdin.isatty():
            message = "standard input is closed or a terminal; pipe requests in, or name a file"
            raise UsageError(message)


def open_source(config: JobConfig, state: StateFolder) -> Source:
    """Take the digests of the inputs; standard input is kept as a file first."""
    spool = state.spool(config.stream_format)
    if STREAM in config.inputs:
        spool_standard_input(spool)
    paths = tuple(spool if path == STREAM else path for path in config.inputs)
    source = Source(config, paths, tuple(map(identify_input, paths)))
    if config.selection.sample is None:
        return source
    return replace(source, threshold=config.selection.threshold(source.rows()))


def identify_input(path: Location) -> str:
    """Give the sha256 of a file, or what its store says of a remote one."""
    return identify(path) if isinstance(path, Remote) else digest_file(path)


def digest_file(path: Path) -> str:
    """Give the sha256 of a file in hexadecimal; InputError if it cannot be read."""
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        message = f"input {path} cannot be read: {error.strerror}"
        raise InputError(message) from error
