"""The inputs of a job as one sequence of lines.

A local input is opened for a check, for its digest, to count its lines, and to read them. That it
stayed the same is told by its size, time and inode, which are taken before the digest.
"""

import shutil
import sys
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from hashlib import sha256
from itertools import islice
from pathlib import Path

from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.errors import InputError, OutputError, RequestError, UsageError
from aobatch.files import (
    check_creatable,
    file_digest,
    replacing,
    storage_errors,
)
from aobatch.formats import Facts, Row, find_format, read_kept, read_rows, split_compression
from aobatch.formats.compression import check_input
from aobatch.formats.keep import KeptRows, renumbered
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location, Remote, download, stated_identity
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.report.usage import report_path
from aobatch.job.state import StateFolder
from aobatch.text import escape


def check_output(config: JobConfig) -> None:
    """Refuse an output that could not be published, before anything is computed for it."""
    output = config.output
    if output != STREAM:
        _check_file(output, "the output")
        check_creatable(report_path(output), "the usage report")
    elif sys.stdout is None:
        message = "standard output is closed; name a file with --output"
        raise OutputError(message)
    elif sys.stdout.isatty() and not config.is_text:
        message = f"{config.stream_format} is nothing for a terminal; redirect it to a file or pipe"
        raise UsageError(message)
    if config.errors is not None:
        _check_file(config.errors, "--errors")


def refuse_folder(path: Location | None, role: str) -> None:
    """Refuse a folder where a file is to be written."""
    if not isinstance(path, Path) or path == STREAM:
        return
    with storage_errors(path):
        if path.is_dir():
            message = f"{role} {path} is a folder; name a file in it"
            raise OutputError(message)


def _check_file(path: Path, role: str) -> None:
    refuse_folder(path, role)
    find_format(path)
    check_creatable(path, role)


class Input:
    """An input of a job: a file, or the copy of what can be read only once or is far away."""

    def __init__(
        self, named: Location, path: Location | None = None, facts: Facts | None = None
    ) -> None:
        self.path = path or named
        self.facts = facts or Facts()
        self.digest = ""
        """Of its bytes as they were when the job began, or what its store said of them."""
        self.named = named
        self._stamp: object = None

    @property
    def name(self) -> str:
        """How it was named, as text: a name on disk may be none."""
        return escape(str(self.named))

    def identify(self, state: StateFolder) -> None:
        """Take the digest; what tells of a change is taken before."""
        self._stamp = _stamp(self.path)
        is_told = isinstance(self._stamp, str)
        self.digest = str(self._stamp) if is_told else digest_file(self.fetch(state))

    def fetch(self, state: StateFolder) -> Path:
        """Copy a remote file, so that it is read from afar once, by later runs of the job too."""
        if isinstance(self.path, Remote):
            plain, compression = split_compression(self.path)
            digest = sha256(f"{self.path.uri} {self._stamp}".encode()).hexdigest()
            copy = state.copy(f"{digest[:16]}{Path(plain).suffix}{compression}")
            if self._stamp is None or not copy.exists():
                with replacing(copy) as stream:
                    download(self.path, stream)
                    self.check_unchanged()
            self.path = copy
        return self.path

    def check_unchanged(self) -> None:
        """Refuse to go on if the input is not what it was when the job began."""
        if self.named != STREAM and self._stamp not in (None, _stamp(self.named)):
            message = (
                f"input {self.named} changed while the job ran; nothing was published, run again"
            )
            raise InputError(message)

    def check_copy(self, columns: Columns) -> None:
        """Refuse a copy, if there is one, that could not be checked before it was made."""
        if self.path == self.named:
            return
        with self._naming_what_was_copied():
            self.facts = find_format(self.path).check(self.path, columns.at(self.named))

    def rows(self, columns: Columns) -> Iterator[Row]:
        """Read every row anew; errors of a copy name what was copied."""
        with self._naming_what_was_copied():
            yield from read_rows(self.path, columns=columns.at(self.named))

    @contextmanager
    def _naming_what_was_copied(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            if self.path == self.named:
                raise
            named = "standard input" if self.named == STREAM else str(self.named)
            raise InputError(str(error).replace(str(self.path), named)) from error


def _stamp(path: Location) -> object:
    if isinstance(path, Remote):
        return stated_identity(path)
    try:
        status = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev


class Source:
    """Lines of all inputs in order, numbered as if the files were one."""

    def __init__(self, config: JobConfig, inputs: Sequence[Input]) -> None:
        self.config = config
        self.inputs = inputs
        self._firsts: list[int] = []
        """The number ahead of the first line of each input that was come to."""

    def place(self, number: int) -> tuple[int, int]:
        """Find the input, counted from 0, and the line in it of a line that was read."""
        index = bisect_left(self._firsts, number) - 1
        return index, number - self._firsts[index]

    def named_place(self, number: int) -> tuple[str | None, int]:
        """Find the input of a line by its name, None if it is the only one, and the line in it."""
        index, line = self.place(number)
        return self._names[index] if len(self.inputs) > 1 else None, line

    @cached_property
    def _names(self) -> list[str]:
        """Names without their folders, where those are not needed to tell inputs apart."""
        named = self.config.inputs
        counts = Counter(location.name for location in named)
        names = [str(path) if counts[path.name] > 1 else path.name for path in named]
        return [escape(name) for name in names]

    @property
    def digests(self) -> tuple[str, ...]:
        """What the inputs were when the job began."""
        return tuple(source.digest for source in self.inputs)

    @property
    def id_type(self) -> object:
        """The type of the custom_ids of all inputs if it is one, and not text."""
        types = [source.facts.id_type for source in self.inputs]
        return types[0] if all(found == types[0] for found in types) else None

    def kept_rows(self, numbers: Iterator[int]) -> KeptRows | None:
        """Give what is kept of the lines with these numbers; InputError if inputs do not agree."""
        schemas = [source.facts.kept for source in self.inputs]
        if schemas[0] is None:
            return None
        for source, schema in zip(self.inputs, schemas, strict=True):
            if schema != schemas[0]:
                message = (
                    f"{source.path} and {self.inputs[0].path} have columns of other names or types "
                    "to keep; convert one of them, or keep what is alike"
                )
                raise InputError(message)
        columns = self.config.table_columns
        parts = (read_kept(source.path, columns) for source in self.inputs)
        return KeptRows(schemas[0], renumbered(parts), numbers)

    def fetch(self, state: StateFolder) -> None:
        """Copy remote inputs, unless their first lines alone are asked for."""
        if self.config.selection.limit is None or self.config.selection.sample is not None:
            for source in self.inputs:
                source.fetch(state)
                source.check_copy(self.config.table_columns)

    def lines(self) -> Iterator[Request | FailedLine]:
        """Parse every line anew and yield those of the job; the same bytes give the same keys."""
        parser = new_parser(self.config)
        for row, is_chosen in self.config.selection.choose(self._rows(), self._sample[0]):
            # Others are parsed too, since equal requests before it are part of a line's key.
            if row.error is None and row.fields is None:
                line = parser.parse(row.number, row.raw)
            else:
                line = parser.parse_fields(row.number, row.fields or {}, row.error)
            if is_chosen:
                yield line

    def count(self) -> int:
        """Count the lines of the job."""
        selection = self.config.selection
        if selection.sample is not None:
            return selection.count(self._sample[1])
        total = 0
        for source in self.inputs:
            left = None if selection.limit is None else max(0, selection.limit - total)
            rows = islice(source.rows(self.config.table_columns), left)
            stated = source.facts.num_rows
            total += sum(1 for _ in rows) if stated is None else stated
        return selection.count(total)

    @cached_property
    def _sample(self) -> tuple[int, int]:
        return self.config.selection.bounds(self._rows())

    def _rows(self) -> Iterator[Row]:
        first, firsts = 0, list[int]()
        for source in self.inputs:
            number = 0
            firsts.append(first)
            if len(firsts) > len(self._firsts):
                self._firsts = firsts.copy()
            for row in source.rows(self.config.table_columns):
                number = row.number
                yield Row(first + number, row.raw, row.error, row.fields) if first else row
            first += number


def new_parser(config: JobConfig) -> Parser:
    """Make a parser at the first line; UsageError if a default of the job is wrong."""
    try:
        return Parser(config.defaults, Limits(), config.ignore_unknown, config.overrides)
    except RequestError as error:
        message = f"a default or override of the job is wrong: {error.message}"
        raise UsageError(message) from error


def check_columns(config: JobConfig) -> None:
    """Refuse columns where no input has any."""
    stream = Path(f"stdin.{config.stream_format}")
    files = [stream if path == STREAM else path for path in config.inputs]
    has_data = config.template is not None or any(find_format(f).has_columns for f in files)
    if config.columns and not has_data:
        message = "--column is for tables such as CSV and Parquet, and no input is one"
        raise UsageError(message)


def check_inputs(config: JobConfig) -> list[Facts]:
    """Refuse wrong defaults, overrides and inputs that are missing or no row of which can be read.

    Give what each input says of its rows.
    """
    new_parser(config)
    config.table_columns.check()
    return [_check_input(path, config.table_columns) for path in config.inputs]


def _check_input(path: Location, columns: Columns) -> Facts:
    if path != STREAM:
        check_input(path)
        return find_format(path).check(path, columns.at(path))
    if sys.stdin is None or sys.stdin.isatty():
        message = "standard input is closed or a terminal; pipe requests in, or name a file"
        raise UsageError(message)
    return Facts()


def open_source(config: JobConfig, state: StateFolder, facts: Sequence[Facts]) -> Source:
    """Open checked inputs; standard input is kept as a file first."""
    spool = state.copy(f"stdin.{config.stream_format}")
    if STREAM in config.inputs:
        with replacing(spool) as stream:
            shutil.copyfileobj(sys.stdin.buffer, stream)
    paths = (spool if path == STREAM else path for path in config.inputs)
    source = Source(config, [*map(Input, config.inputs, paths, facts)])
    for each in source.inputs:
        each.check_copy(config.table_columns)
    return source


def digest_file(path: Path) -> str:
    """Take the sha256 of a file, in hexadecimal; InputError if it cannot be read."""
    try:
        return file_digest(path)
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"input {path} cannot be read: {error.strerror}")
