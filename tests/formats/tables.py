"""Parquet files of requests, for tests."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.formats import Row, read_rows
from aobatch.formats.parquet_fields import Columns

MAX_BYTES = 2**20

TYPES = {
    "prompt": pa.string(),
    "max_tokens": pa.int64(),
    "temperature": pa.float64(),
    "echo": pa.bool_(),
    "stop": pa.list_(pa.string()),
    "stop_token_ids": pa.list_(pa.int32()),
    "logit_bias": pa.map_(pa.string(), pa.float64()),
    "stream": pa.bool_(),
    "stream_options": pa.struct([("include_usage", pa.bool_())]),
    "custom_id": pa.string(),
    "user": pa.large_string(),
    "seed": pa.int64(),
}
"""A column type for each of many fields."""


def write_table(path: Path, columns: dict[str, Any], **options: object) -> Path:
    """Write columns: arrays, or lists whose types are those of their fields."""
    arrays = {
        name: column if isinstance(column, pa.Array) else pa.array(column, TYPES.get(name))
        for name, column in columns.items()
    }
    pq.write_table(pa.table(arrays), path, **options)
    return path


def rows_of(path: Path, columns: Columns | None = None) -> list[Row]:
    """Read a file whole."""
    return list(read_rows(path, MAX_BYTES, columns))


def parse_rows(path: Path, columns: Columns | None = None) -> list[Request | FailedLine]:
    """Parse a file as a job does."""
    parser = Parser({}, Limits())
    return [
        parser.parse(row.number, row.raw)
        if row.fields is None and row.error is None
        else parser.parse_fields(row.number, row.fields or {}, row.error)
        for row in read_rows(path, MAX_BYTES, columns)
    ]
