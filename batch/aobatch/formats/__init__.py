"""Files and rows: one module a format, found by a file's suffix."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from aobatch.errors import RequestError, UsageError

MAX_LINE_BYTES = 16 * 2**20
"""A longer line is not kept in memory; it becomes an error record."""

FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl"}
"""The module that reads and writes files of a suffix."""

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
"""What a second suffix says about the bytes of a file."""


@dataclass(frozen=True, slots=True)
class Row:
    """One request of a file: the JSON text of its body, or why there is none."""

    number: int
    """Counted from 1 over all lines of the file, blank ones too."""
    raw: bytes
    error: RequestError | None = None


class Format(Protocol):
    """What a module of this package offers."""

    def read_rows(self, path: Path, max_line_bytes: int) -> Iterator[Row]:
        """Yield the rows of a file in order; InputError if the file itself cannot be read."""
        ...

    def write_records(self, records: Iterable[bytes], stream: BinaryIO, path: Path) -> None:
        """Write output records, each one JSON text, as the name in path asks for."""
        ...

    def read_records(self, path: Path) -> Iterator[bytes]:
        """Yield the records of an output that write_records has written."""
        ...


def read_rows(path: Path, max_line_bytes: int = MAX_LINE_BYTES) -> Iterator[Row]:
    """Yield the rows of a file in order; InputError if the file itself cannot be read."""
    return find_format(path).read_rows(path, max_line_bytes)


def write_records(records: Iterable[bytes], stream: BinaryIO, path: Path) -> None:
    """Write output records into a stream in the format that the name in path asks for."""
    find_format(path).write_records(records, stream, path)


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of an output, however long they are."""
    return find_format(path).read_records(path)


def find_format(path: Path) -> Format:
    """Give the module for a file's suffix; UsageError names the known suffixes."""
    suffix = Path(split_compression(path)[0]).suffix.lower()
    if suffix not in FORMATS:
        message = (
            f"{path} has no known suffix; known are {', '.join(FORMATS)}, "
            f"each also with {', '.join(COMPRESSIONS)}"
        )
        raise UsageError(message)
    return cast("Format", import_module(f"{__name__}.{FORMATS[suffix]}"))


def split_compression(path: Path) -> tuple[str, str]:
    """Split a file name into the part before its compression suffix and that suffix, or ''."""
    if path.suffix.lower() in COMPRESSIONS:
        return path.name.removesuffix(path.suffix), path.suffix
    return path.name, ""
