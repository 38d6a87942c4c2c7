"""CSV and TSV: a header and a request a row, as RFC 4180 quotes them; all cells are text."""

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import msgspec
import pyarrow as pa

from aobatch.api import errors
from aobatch.errors import InputError, RequestError
from aobatch.formats import Facts, Row, split_compression
from aobatch.formats.answers import COLUMNS, CUSTOM_ID, grouped
from aobatch.formats.compression import open_input, open_output, read_head
from aobatch.formats.keep import Extras, KeptBatch, Written, kept_schema, numbered
from aobatch.formats.parquet_fields import Columns, plan_fields, read_fields
from aobatch.formats.remote import Location, Remote, check_readable

has_columns, is_compressed_inside, has_whole_records = True, False, False

BATCH_ROWS = 1024
HEAD_BYTES = 2**16
_TABS = ".tsv"
_OTHERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


class _Cells(NamedTuple):
    """A row of cells, or why they are none of this table."""

    cells: list[str]
    error: RequestError | None = None


def check(path: Location, columns: Columns) -> Facts:
    """Refuse a file whose header cannot become requests."""
    if isinstance(path, Remote):
        # A copy will be looked at.
        check_readable(path)
        return Facts()
    read_head(path, HEAD_BYTES)
    with _opened(path) as rows:
        schema = _schema(_header(rows, path))
        plan_fields(schema, path, replace(columns, is_text=True))
    return Facts(kept=kept_schema(schema, path, columns.keep))


def read_rows(path: Location, max_line_bytes: int, columns: Columns) -> Iterator[Row]:
    """Yield a row for each that is not blank; one with too few or many cells is an error row."""
    numbers = count(1)
    with _opened(path, max_line_bytes) as rows:
        names = _header(rows, path)
        schema = _schema(names)
        fields = plan_fields(schema, path, replace(columns, is_text=True))
        checked = _checked(rows, len(names), max_line_bytes)
        while block := list(islice(checked, BATCH_ROWS)):
            batch = _batch(block, schema)
            for row, (values, error) in zip(block, read_fields(batch, fields), strict=True):
                if row.error is not None:
                    values = {CUSTOM_ID: values.get(CUSTOM_ID)}
                if values.get(CUSTOM_ID) == "":
                    values[CUSTOM_ID] = None
                yield Row(next(numbers), b"", row.error or error, values)


def write_records(
    records: Iterable[bytes],
    stream: BinaryIO,
    path: Path,
    extras: Extras,
) -> None:
    """Write a header and a row for each record; cells are written as they are."""
    with open_output(stream, path) as opened:
        text = io.TextIOWrapper(opened, "utf-8", newline="", write_through=True)
        writer = csv.writer(text, delimiter=_delimiter(path))
        kept = extras.kept
        writer.writerow([*COLUMNS, *(f.name for f in kept.table_fields)] if kept else COLUMNS)
        for rows in grouped(records):
            columns = [[row[name] for row in rows] for name in COLUMNS]
            columns += kept.texts(len(rows)) if kept else []
            writer.writerows(zip(*columns, strict=True))
        text.flush()
        text.detach()


def read_kept(path: Location, max_line_bytes: int, columns: Columns) -> Iterator[KeptBatch]:
    """Yield what is kept of the rows."""
    with _opened(path, max_line_bytes) as rows:
        schema = _schema(_header(rows, path))
        kept = kept_schema(schema, path, columns.keep)
        checked = _checked(rows, len(schema.names), max_line_bytes)
        blocks = iter(lambda: list(islice(checked, BATCH_ROWS)), [])
        names = [] if kept is None else kept.names
        yield from numbered(_batch(block, schema).select(names) for block in blocks)


def read_records(path: Path) -> Iterator[bytes]:
    """Yield what an output's rows say of their records: enough to write such rows again."""
    for row in _read_output(path, COLUMNS):
        yield msgspec.json.encode(_record_of(row))


def _record_of(row: dict[str, str]) -> dict[str, object]:
    record: dict[str, object] = {CUSTOM_ID: row[CUSTOM_ID]}
    if row["finish_reason"]:
        record["choices"] = [{key: row[key] for key in ("text", "finish_reason")}]
    if row["prompt_tokens"]:
        counts = {key: int(row[key]) for key in ("prompt_tokens", "completion_tokens")}
        record["usage"] = counts | {"total_tokens": sum(counts.values())}
    if row["error_message"]:
        record["error"] = {"code": row["error_code"], "message": row["error_message"]}
    return record


def read_written(path: Path) -> Written:
    """Read what an output has beside what its rows say of records."""
    with _opened(path, sys.maxsize) as rows:
        names = [name for name in _header(rows, path) if name not in COLUMNS]
    if not names:
        return Written()
    batches = (_batch_of(row, names) for row in _read_output(path, names))
    return Written(None, _schema(names), numbered(batches))


def _batch_of(row: dict[str, str], names: list[str]) -> pa.RecordBatch:
    return _batch([_Cells([row[name] for name in names])], _schema(names))


def _read_output(path: Path, wanted: Sequence[str]) -> Iterator[dict[str, str]]:
    """Yield the rows of an output by the names of their columns; InputError if it is none."""
    with _opened(path, sys.maxsize) as rows:
        names = _header(rows, path)
        if not {*wanted} <= {*names}:
            message = f"{path} is no table of answers: it lacks some of {', '.join(wanted)}"
            raise InputError(message)
        for row in rows:
            yield dict(zip(names, row, strict=True))


@contextmanager
def _opened(path: Location, max_line_bytes: int = 2**20) -> Iterator[Iterator[list[str]]]:
    """Open a file as rows of cells; InputError names the line where it is no such file."""
    csv.field_size_limit(max(max_line_bytes, HEAD_BYTES))
    with open_input(path) as stream:
        text = io.TextIOWrapper(stream, "utf-8-sig", newline="")
        rows = csv.reader(text, delimiter=_delimiter(path), strict=True)
        try:
            yield rows
        except csv.Error as error:
            message = (
                f"{path} cannot be read beyond its line {rows.line_num}: {error}; a cell with "
                "quotes in it is written in quotes, and each quote of it twice"
            )
            raise InputError(message) from error
        except UnicodeDecodeError as error:
            message = (
                f"{path} is not UTF-8: byte {error.object[error.start]:#04x} behind line "
                f"{rows.line_num} is none of it; save it as UTF-8, as iconv -f LATIN1 -t UTF-8 does"
            )
            raise InputError(message) from error


def _delimiter(path: Location) -> str:
    return "\t" if Path(split_compression(path)[0]).suffix.lower() == _TABS else ","


def _header(rows: Iterator[list[str]], path: Location) -> list[str]:
    """Read the names of the columns; InputError if they cannot be those."""
    names = next((row for row in rows if row), None)
    if names is None:
        message = f"{path} is empty; its first line has to name its columns"
        raise InputError(message)
    found = re.search(r"[;\t|,]", names[0]) if len(names) == 1 else None
    if found is not None:
        wanted = "tabs" if _delimiter(path) == "\t" else "commas"
        message = (
            f"{path} seems to be separated by {_OTHERS[found[0]]}: its one column would be "
            f"'{errors.shorten(names[0])}'; save it with {wanted}"
        )
        raise InputError(message)
    if blank := [index for index, name in enumerate(names, 1) if not name]:
        message = f"{path} has no name for its column {blank[0]}; name it in the first line"
        raise InputError(message)
    return names


def _batch(block: list[_Cells], schema: pa.Schema) -> pa.RecordBatch:
    cells = zip(*(row.cells for row in block), strict=True)
    arrays = [pa.array(column, pa.string()) for column in cells]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _schema(names: list[str]) -> pa.Schema:
    return pa.schema([(name, pa.string()) for name in names])


def _checked(rows: Iterator[list[str]], width: int, max_line_bytes: int) -> Iterator[_Cells]:
    for cells in rows:
        if not cells:
            continue
        if len(cells) != width:
            reason = f"the row has {len(cells)} cells, its table {width} columns."
            yield _Cells((cells + [""] * width)[:width], errors.invalid_value(reason, "row"))
        elif sum(map(len, cells)) > max_line_bytes:
            yield _Cells([""] * width, errors.line_too_long("row", max_line_bytes))
        else:
            yield _Cells(cells)
