"""Output lines as Parquet: flat columns for the first choice, and the whole line as JSON."""

from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

RESPONSE = "response"
GROUP_ROWS = 2**16
GROUP_BYTES = 32 * 2**20

SCHEMA = pa.schema(
    [
        ("custom_id", pa.string()),
        pa.field("index", pa.int64(), nullable=False),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("completion_tokens", pa.int64()),
        ("error_code", pa.string()),
        ("error_message", pa.string()),
        pa.field(RESPONSE, pa.string(), nullable=False),
    ]
)
_REPEATED = ["finish_reason", "error_code", "error_message"]


class _Choice(msgspec.Struct):
    text: str
    finish_reason: str | None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int


class _Error(msgspec.Struct):
    code: str | None
    message: str


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


class _Answer(msgspec.Struct):
    body: _Body


class _Line(msgspec.Struct):
    """An output line of either style; a bare one is its own body."""

    custom_id: str | None = None
    response: _Answer | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Error | None = None


def write_answers(records: Iterable[bytes], stream: BinaryIO) -> None:
    """Write a row for each output line, in row groups of some megabytes."""
    with pq.ParquetWriter(
        pa.PythonFile(stream, "w"), SCHEMA, compression="zstd", use_dictionary=_REPEATED
    ) as writer:
        for rows in _groups(records):
            writer.write_batch(_batch_of(rows), row_group_size=GROUP_ROWS)


def _groups(records: Iterable[bytes]) -> Iterator[list[tuple[Any, ...]]]:
    decoder = msgspec.json.Decoder(_Line)
    rows: list[tuple[Any, ...]] = []
    num_bytes = 0
    for index, record in enumerate(records):
        rows.append(_row_of(decoder.decode(record), index, record))
        num_bytes += len(record)
        if num_bytes >= GROUP_BYTES or len(rows) == GROUP_ROWS:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def _row_of(line: _Line, index: int, record: bytes) -> tuple[Any, ...]:
    body = line if line.response is None else line.response.body
    error = body.error or line.error
    choice = body.choices[0] if body.choices else None
    return (
        line.custom_id,
        index,
        choice and choice.text,
        choice and choice.finish_reason,
        body.usage and body.usage.prompt_tokens,
        body.usage and body.usage.completion_tokens,
        error and error.code,
        error and error.message,
        record,
    )


def _batch_of(rows: list[tuple[Any, ...]]) -> pa.RecordBatch:
    columns = zip(*rows, strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)
