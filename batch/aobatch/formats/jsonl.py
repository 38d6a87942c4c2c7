"""JSON Lines: one request a line, bytes split on line feeds alone."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import BinaryIO

from aobatch.api import errors
from aobatch.formats import Row
from aobatch.formats.compression import check_input, open_input, open_output
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location

is_table = False

CHUNK_BYTES = 2**18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def check(path: Location, columns: Columns) -> int | None:  # noqa: ARG001 - a Format's signature
    """Refuse what is no file; what is in it, its lines say."""
    check_input(path)
    return None


def read_rows(
    path: Location,
    max_line_bytes: int,
    columns: Columns | None = None,  # noqa: ARG001 - a Format's signature
) -> Iterator[Row]:
    """Yield a row for each line that is not blank; a line that is too long is an error row."""
    with open_input(path) as stream:
        for number, line in split_lines(stream, max_line_bytes):
            if line is None:
                yield Row(number, b"", errors.line_too_long("line", max_line_bytes))
            else:
                yield Row(number, line)


def write_records(records: Iterable[bytes], stream: BinaryIO, path: Path) -> None:
    """Write each record and a line feed."""
    with open_output(stream, path) as lines:
        for record in records:
            lines.write(record + b"\n")


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the lines of an output."""
    for row in read_rows(path, sys.maxsize):
        yield row.raw


def split_lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank with their numbers, None for one that was too long.

    Only a line feed ends a line: U+2028 and a lone carriage return may stand inside a JSON string.
    A carriage return before the line feed and one byte-order mark at the very start are dropped.
    """
    number, length = 1, 0
    begun: list[bytes] = []
    chunks = chain(iter(partial(stream.read, CHUNK_BYTES), b""), [b"\n"])
    for index, chunk in enumerate(chunks):
        *ends, last = (chunk if index else chunk.removeprefix(BYTE_ORDER_MARK)).split(b"\n")
        # A small file can hold so many blank lines that a call for each would take hours.
        for end in ends:
            is_long = length + len(end) > max_line_bytes
            line = b"".join([*begun, end]) if begun and not is_long else end
            begun, length = [], 0
            if is_long:
                yield number, None
            elif line and not line.isspace():
                yield number, line.removesuffix(b"\r")
            number += 1
        length += len(last)
        # Nothing is kept of a line that is too long.
        begun = [*begun, last] if length <= max_line_bytes else []
