"""JSON Lines: one request a line, bytes split on line feeds alone."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from aobatch.api import errors
from aobatch.api.json_line import decode_line
from aobatch.errors import InputError, RequestError
from aobatch.formats import Facts, Row
from aobatch.formats.compression import open_input, open_output, read_head
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location, Remote, check_readable
from aobatch.formats.template import Template

has_columns, is_compressed_inside = False, False

CHUNK_BYTES = 2**18
HEAD_BYTES = 2**16
"""So much is looked at before a job begins."""
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKS = re.compile(b"(?:%b)+" % BYTE_ORDER_MARK)


def check(path: Location, columns: Columns) -> Facts:
    """Refuse what has no lines of requests by its first bytes; what else is wrong its lines say."""
    if isinstance(path, Remote):
        # A copy will be looked at.
        check_readable(path)
        return Facts()
    head = read_head(path, HEAD_BYTES)
    text = head.removeprefix(BYTE_ORDER_MARK).decode(errors="replace").lstrip()
    if text.startswith("{") and (num_lines := _lines_of(text)) > 1:
        message = (
            f"{path} has objects of several lines, the first one of {num_lines}; write each "
            "request in one line, as jq -c . does"
        )
        raise InputError(message)
    if _is_array(text, is_cut=len(head) == HEAD_BYTES):
        message = (
            f"{path} is one JSON array; write a line for each request in it, as jq -c '.[]' does"
        )
        raise InputError(message)
    if columns.template is not None:
        _check_template(text, path, columns.template)
    return Facts()


def _check_template(text: str, path: Location, template: Template) -> None:
    """Hold a template against the first line, if that is an object at all."""
    with suppress(ValueError, RecursionError):
        first, _ = json.JSONDecoder().raw_decode(text)
        if isinstance(first, dict):
            template.check(list(first), f"the first line of {path}")


def _is_array(text: str, *, is_cut: bool) -> bool:
    """Say whether a file is an array of objects, and not a wrong line ahead of others."""
    inner = text[1:].lstrip()
    if not (text.startswith("[") and inner.startswith("{")):
        return False
    behind = inner[_end_of(inner) :].lstrip() if _end_of(inner) else ""
    if not behind.startswith((",", "]")):
        return False
    first, _, rest = text.partition("\n")
    num_lines = _lines_of(text)
    if num_lines == 0:
        return is_cut or first.strip() == "["
    return num_lines > 1 or not rest.strip()


def _lines_of(text: str) -> int:
    """Count the lines of the value with which a text begins, 0 if it has no whole one."""
    end = _end_of(text)
    return end and text.count("\n", 0, end) + 1


def _end_of(text: str) -> int:
    try:
        return json.JSONDecoder().raw_decode(text)[1]
    except (ValueError, RecursionError):
        return 0


def read_rows(
    path: Location,
    max_line_bytes: int,
    columns: Columns | None = None,
) -> Iterator[Row]:
    """Yield a row for each line that is not blank; a line that is too long is an error row."""
    template = columns.template if columns else None
    with open_input(path) as stream:
        for number, line in split_lines(stream, max_line_bytes):
            if line is None:
                yield Row(number, b"", errors.line_too_long("line", max_line_bytes))
            elif template is not None and columns is not None:
                yield _filled(number, line, template, columns)
            else:
                yield Row(number, line)


def _filled(number: int, line: bytes, template: Template, columns: Columns) -> Row:
    """Make the request of a line that is data."""
    fields: dict[str, Any] = {}
    try:
        decoded = decode_line(line)
        fields = {"custom_id": decoded.fields.get("custom_id")}
        decoded.check()
        return Row(number, b"", None, template.fill(decoded.fields, columns.names))
    except RequestError as error:
        return Row(number, b"", error, fields)


def write_records(
    records: Iterable[bytes],
    stream: BinaryIO,
    path: Path,
    id_type: object,  # noqa: ARG001 - a Format's signature
) -> None:
    """Write each record and a line feed."""
    with open_output(stream, path) as lines:
        for record in records:
            lines.write(record + b"\n")


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the lines of an output."""
    for row in read_rows(path, sys.maxsize):
        yield row.raw


def output_id_type(path: Path) -> None:
    """Say that custom_ids are text."""


def split_lines(stream: BinaryIO, max_line_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """Yield the lines that are not blank with their numbers, None for one that was too long.

    Only a line feed ends a line: U+2028 and a lone carriage return may stand inside a JSON string.
    A carriage return before the line feed is dropped, and byte-order marks at the start of a line,
    which come to stand there where files are joined.
    """
    number, length = 1, 0
    begun: list[bytes] = []
    chunks = chain(iter(partial(stream.read, CHUNK_BYTES), b""), [b"\n"])
    for chunk in chunks:
        *ends, last = chunk.split(b"\n")
        # A small file can hold so many blank lines that a call for each would take hours.
        for end in ends:
            is_long = length + len(end) > max_line_bytes
            line = b"".join([*begun, end]) if begun and not is_long else end
            if line.startswith(BYTE_ORDER_MARK):
                line = _MARKS.sub(b"", line, count=1)
            begun, length = [], 0
            if is_long:
                yield number, None
            elif line and not line.isspace():
                yield number, line.removesuffix(b"\r")
            number += 1
        length += len(last)
        # Nothing is kept of a line that is too long.
        begun = [*begun, last] if length <= max_line_bytes else []
