"""Files and rows: one module a format, found by a file's suffix."""

from collections.abc import Iterable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import msgspec

from aobatch.errors import RequestError, UsageError
from aobatch.formats.keep import Extras, KeptBatch, Written
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is not kept in memory; it becomes an error record."""

FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".csv": "delimited",
    ".tsv": "delimited",
}
"""The module that reads and writes files of a suffix."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
"""What a second suffix says about the bytes of a file."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """One request of a file: the JSON text of its body or its fields, or why there are none."""

    number: int
    """Counted from 1 over all lines of the file, blank ones too."""
    raw: bytes = b""
    error: RequestError | None = None
    fields: dict[str, Any] | None = None
    """What a table says, in place of a text; beside an error, what could be read."""


class Facts(msgspec.Struct, frozen=True):
    """What a file says of its rows ahead of them."""

    num_rows: int | None = None
    """None if they have to be read to be counted."""
    id_type: object = None
    """The type of its column of custom_ids, None if it is text."""
    kept: Any = None
    """The schema of what is kept of its rows, if anything is."""


class Format(Protocol):
    """What a module of this package offers."""

    has_columns: bool
    is_compressed_inside: bool
    """Whether no suffix says how its files are compressed."""
    has_whole_records: bool
    """Whether an output has all that its records say, and not the columns of a table alone."""

    def check(self, path: Location, columns: Columns) -> Facts:
        """Refuse a file none of whose rows could be read; InputError says why."""
        ...

    def read_rows(self, path: Location, max_line_bytes: int, columns: Columns) -> Iterator[Row]:
        """Yield the rows of a file in order; InputError if the file itself cannot be read."""
        ...

    def write_records(
        self, records: Iterable[bytes], stream: BinaryIO, path: Path, extras: Extras
    ) -> None:
        """Write output records, each one JSON text, as the name in path asks for."""
        ...

    def read_kept(
        self, path: Location, max_line_bytes: int, columns: Columns
    ) -> Iterator[KeptBatch]:
        """Yield what is kept of the rows, by the numbers that `read_rows` gives them."""
        ...

    def read_records(self, path: Path) -> Iterator[bytes]:
        """Yield the records of an output that write_records has written."""
        ...

    def read_written(self, path: Path) -> Written:
        """Read what an output has beside its records."""
        ...


def read_rows(
    path: Location, max_line_bytes: int = MAX_LINE_BYTES, columns: Columns | None = None
) -> Iterator[Row]:
    """Yield the rows of a file in order; InputError if the file itself cannot be read."""
    return find_format(path).read_rows(path, max_line_bytes, columns or Columns())


def write_records(
    records: Iterable[bytes], stream: BinaryIO, path: Path, extras: Extras | None = None
) -> None:
    """Write output records into a stream in the format that the name in path asks for.

    A table has custom_ids of the type of those that the inputs' tables have, so that it can be
    joined with them.
    """
    find_format(path).write_records(records, stream, path, extras or Extras())


def read_kept(path: Location, columns: Columns) -> Iterator[KeptBatch]:
    """Yield what is kept of the rows of a file; InputError if the file itself cannot be read."""
    return find_format(path).read_kept(path, MAX_LINE_BYTES, columns)


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of an output, however long they are."""
    return find_format(path).read_records(path)


def find_format(path: Location) -> Format:
    """Find the module for a file's suffix; UsageError names the known suffixes."""
    name, compression = split_compression(path)
    suffix = Path(name).suffix.lower()
    if suffix not in FORMATS:
        message = f"{path} has no known suffix; {known_suffixes()}"
        raise UsageError(message)
    found = cast("Format", import_module(f"{__name__}.{FORMATS[suffix]}"))
    if compression and found.is_compressed_inside:
        message = f"{path}: files of this format are compressed inside; leave {compression} out"
        raise UsageError(message)
    return found


def known_suffixes() -> str:
    """Say which suffixes there are."""
    return f"known are {', '.join(FORMATS)}, but for Parquet also with {', '.join(COMPRESSIONS)}"


def is_known(path: Location) -> bool:
    """Say whether a file's suffix is that of a format."""
    return Path(split_compression(path)[0]).suffix.lower() in FORMATS


def split_compression(path: Location) -> tuple[str, str]:
    """Split a file name into the part before its compression suffix and that suffix, or ''."""
    if path.suffix.lower() in COMPRESSIONS:
        return path.name.removesuffix(path.suffix), path.suffix
    return path.name, ""
