"""JSON Lines: one request a line, bytes split on line feeds alone."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import RequestError
from aobatch.formats import Row
from aobatch.formats.compression import open_input, open_output

CHUNK_BYTES = 2**20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_rows(path: Path, max_line_bytes: int) -> Iterator[Row]:
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


def split_lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank with their numbers, None for one that was too long.

    Only a line feed ends a line: U+2028 and a lone carriage return may stand inside a JSON string.
    A carriage return before the line feed and one byte-order mark at the very start are dropped.
    """
    number = 1
    begun: bytes | None = b""
    for chunk in _chunks(stream):
        first, *others = chunk.split(b"\n")
        begun = _join(begun, first, max_line_bytes)
        for piece in others:
            # A small file can hold so many blank lines that a call for each would take hours.
            if begun is None or (begun and not begun.isspace()):
                yield number, _finish(begun)
            number += 1
            begun = piece if len(piece) <= max_line_bytes else None
    if begun is None or (begun and not begun.isspace()):
        yield number, _finish(begun)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    yield stream.read(CHUNK_BYTES).removeprefix(BYTE_ORDER_MARK)
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _join(begun: bytes | None, piece: bytes, max_line_bytes: int) -> bytes | None:
    if begun is None or len(begun) + len(piece) > max_line_bytes:
        return None
    return begun + piece


def _finish(line: bytes | None) -> bytes | None:
    return None if line is None else line.removesuffix(b"\r")


def _too_long(max_line_bytes: int) -> RequestError:
    message = f"The line is longer than {max_line_bytes} bytes and was not read."
    return RequestError(message, code="line_too_long")
