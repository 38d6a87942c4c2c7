"""JSON Lines: one request a line, bytes split on line feeds alone."""

import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

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
    lines = cast("BinaryIO", io.BufferedReader(cast("io.RawIOBase", stream), CHUNK_BYTES))
    number = 1
    while (line := _read_line(lines, max_line_bytes + len(BYTE_ORDER_MARK + b"\n"))) != b"":
        if line is not None:
            line = line.removesuffix(b"\n")
            line = line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line
        if line is None or len(line) > max_line_bytes:
            yield number, None
        elif line and not line.isspace():
            yield number, line.removesuffix(b"\r")
        number += 1


def _read_line(lines: BinaryIO, max_bytes: int) -> bytes | None:
    """Read a line with its end, b"" behind the last one; None for a longer one."""
    pieces: list[bytes] = []
    length = 0
    while piece := lines.readline(CHUNK_BYTES):
        length += len(piece)
        # Nothing is kept of a line that is too long.
        if length <= max_bytes:
            pieces.append(piece)
        else:
            pieces.clear()
        if piece.endswith(b"\n"):
            break
    return b"".join(pieces) if length <= max_bytes else None
