"""JSON Lines: one request a line, bytes split on line feeds alone."""

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import RequestError
from aobatch.formats import Row
from aobatch.formats.compression import check_input, open_input, open_output
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location

is_table = False

CHUNK_BYTES = 2**18
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def check(path: Location, columns: Columns) -> None:  # noqa: ARG001 - a Format's signature
    """Refuse what is no file; what is in it, its lines say."""
    check_input(path)


def count_rows(path: Location, max_line_bytes: int) -> int:
    """Count the lines that are not blank; InputError if the file is damaged."""
    return sum(1 for _ in read_rows(path, max_line_bytes))


def read_rows(
    path: Location,
    max_line_bytes: int,
    columns: Columns | None = None,  # noqa: ARG001 - a Format's signature
) -> Iterator[Row]:
    """Yield a row for each line that is not blank; a line that is too long is an error row."""
    with open_input(path) as stream:
        for number, line in split_lines(stream, max_line_bytes):
            if line is None:
                yield Row(number, b"", _too_long(max_line_bytes))
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
    number = 1
    begun = _Begun(max_line_bytes)
    for chunk in _chunks(stream):
        *lines, last = chunk.split(b"\n")
        for index, piece in enumerate(lines):
            line = piece if index and len(piece) <= max_line_bytes else begun.end(piece)
            # A small file can hold so many blank lines that a call for each would take hours.
            if line is None or (line and not line.isspace()):
                yield number + index, _finish(line)
        number += len(lines)
        begun.add(last)
    line = begun.end(b"")
    if line is None or (line and not line.isspace()):
        yield number, _finish(line)


class _Begun:
    """The pieces of a line whose end was not read yet; nothing is kept of one that is too long."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pieces: list[bytes] = []
        self._length = 0

    def add(self, piece: bytes) -> None:
        """Go on with the line."""
        self._length += len(piece)
        if self._length <= self._max_bytes:
            self._pieces.append(piece)
        else:
            self._pieces.clear()

    def end(self, piece: bytes) -> bytes | None:
        """Give the line that ends with a piece, None if it is too long, and begin the next one."""
        self.add(piece)
        line = b"".join(self._pieces) if self._length <= self._max_bytes else None
        self._pieces.clear()
        self._length = 0
        return line


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    yield stream.read(CHUNK_BYTES).removeprefix(BYTE_ORDER_MARK)
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _finish(line: bytes | None) -> bytes | None:
    return None if line is None else line.removesuffix(b"\r")


def _too_long(max_line_bytes: int) -> RequestError:
    message = f"The line is longer than {max_line_bytes} bytes and was not read."
    return RequestError(message, code="line_too_long")
