"""JSON Lines: one request a line, bytes split on line feeds alone."""

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from aobatch.api import errors
from aobatch.api.json_line import decode_line
from aobatch.errors import InputError, RequestError
from aobatch.formats import Facts, Row
from aobatch.formats.compression import open_input, open_output, read_head
from aobatch.formats.keep import (
    Extras,
    KeptBatch,
    Written,
    json_schema,
    kept_schema,
    row_of_json,
    with_kept,
)
from aobatch.formats.parquet_fields import Columns
from aobatch.formats.remote import Location, Remote, check_readable
from aobatch.formats.template import Template

has_columns, is_compressed_inside, has_whole_records = False, False, True

CHUNK_BYTES = 2**18
KEPT_ROWS = 1024
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
    first = _first_of(text)
    if columns.template is not None and first:
        columns.template.check(first, f"the first line of {path}")
    return Facts(kept=kept_schema(json_schema(first), path, columns.keep))


def _first_of(text: str) -> list[str]:
    """Name the fields of the first line, none if that is no object."""
    with suppress(ValueError, RecursionError):
        first, _ = json.JSONDecoder().raw_decode(text)
        return list(first) if isinstance(first, dict) else []
    return []


def read_kept(path: Location, max_line_bytes: int, columns: Columns) -> Iterator[KeptBatch]:
    """Yield what is kept of the lines: their fields as JSON, nothing of a line that is wrong."""
    facts = check(path, columns)
    schema = facts.kept if isinstance(facts.kept, pa.Schema) else json_schema([])
    with open_input(path) as stream:
        lines = split_lines(stream, max_line_bytes)
        while block := list(islice(lines, KEPT_ROWS)):
            rows = [row_of_json(_fields_of(line), schema.names) for _, line in block]
            batch = pa.RecordBatch.from_pylist(rows, schema=schema)
            yield KeptBatch([number for number, _ in block], batch)


def _fields_of(line: bytes | None) -> dict[str, Any]:
    with suppress(RequestError):
        return {} if line is None else decode_line(line).fields
    return {}


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
    extras: Extras,
) -> None:
    """Write each record and a line feed."""
    with open_output(stream, path) as lines:
        for record in with_kept(records, extras.kept):
            lines.write(record + b"\n")


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the lines of an output."""
    for row in read_rows(path, sys.maxsize):
        yield row.raw


def read_written(path: Path) -> Written:  # noqa: ARG001 - a Format's signature
    """Give nothing: what is kept stands in the lines."""
    return Written()


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
