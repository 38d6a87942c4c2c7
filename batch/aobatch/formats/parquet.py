"""Parquet: one request a row, read in small batches, and answers in row groups."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Protocol, TypeAlias
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq

from aobatch.api import errors
from aobatch.errors import InputError, UsageError
from aobatch.formats import Facts, Row
from aobatch.formats.answers import CUSTOM_ID, GROUP_ROWS, RESPONSE, grouped
from aobatch.formats.compression import check_input, refuse_other_kind
from aobatch.formats.keep import Extras, KeptBatch, Written, kept_schema, numbered
from aobatch.formats.parquet_fields import Columns, id_type_of, plan_fields, read_fields
from aobatch.formats.remote import Location, Remote, open_places

has_columns, is_compressed_inside, has_whole_records = True, True, True

BATCH_BYTES = 8 * 2**20
MAX_BATCH_ROWS = 2048
PROBE_ROWS = 16
BUFFER_BYTES = 2**20
MAX_THRIFT_STRING = 64 * 2**20
MAX_THRIFT_ITEMS = 10**6

SCHEMA = pa.schema(
    [
        (CUSTOM_ID, pa.string()),
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


ArrowTable: TypeAlias = pa.Table


class ArrowStream(Protocol):
    """A table of any library that gives its rows as Arrow's C streams."""

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Give the rows."""
        ...


def write_stream(table: ArrowStream, path: Path) -> None:
    """Write a table as a file; UsageError if it is none."""
    if not hasattr(table, "__arrow_c_stream__"):
        message = f"a {type(table).__name__} is no table: it has no __arrow_c_stream__"
        raise UsageError(message)
    reader = pa.RecordBatchReader.from_stream(table)
    with pq.ParquetWriter(path, reader.schema, compression="zstd") as writer:
        for batch in reader:
            writer.write_batch(batch)


def read_whole(path: Path) -> pa.Table:
    """Read an output without the lines of JSON, which its other columns say."""
    table = pq.read_table(path, partitioning=None)
    return table.drop_columns([RESPONSE])


def check(path: Location, columns: Columns) -> Facts:
    """Refuse a file that is not Parquet, or whose columns cannot become requests."""
    with _opened(path) as file:
        fields = plan_fields(file.schema_arrow, path, columns)
        groups = map(file.metadata.row_group, range(file.num_row_groups))
        num_rows = sum(int(group.num_rows) for group in groups)
        column = next((field.columns for field in fields if field.name == CUSTOM_ID), ())
        id_type = id_type_of(file.schema_arrow.field(column[0]).type) if column else None
        return Facts(num_rows, id_type, kept_schema(file.schema_arrow, path, columns.keep))


def read_rows(path: Location, max_line_bytes: int, columns: Columns) -> Iterator[Row]:
    """Yield a row for each row; one that is too long, or holds no text, is an error row."""
    with _opened(path) as file:
        fields = plan_fields(file.schema_arrow, path, columns)
        number = 0
        names = list(dict.fromkeys(name for field in fields for name in field.columns))
        for batch in _read_batches(file, names):
            is_large = batch.nbytes > max_line_bytes
            for values, error in read_fields(batch, fields):
                number += 1
                if is_large and _size(values) > max_line_bytes:
                    error = errors.line_too_long("row", max_line_bytes)
                    values = {CUSTOM_ID: values.get(CUSTOM_ID)}
                yield Row(number, b"", error, values)


def read_kept(
    path: Location,
    max_line_bytes: int,  # noqa: ARG001 - a Format's signature
    columns: Columns,
) -> Iterator[KeptBatch]:
    """Yield what is kept of the rows."""
    with _opened(path) as file:
        schema = kept_schema(file.schema_arrow, path, columns.keep)
        yield from numbered(_read_batches(file, [] if schema is None else schema.names))


def read_records(path: Path) -> Iterator[bytes]:
    """Yield the records of an output."""
    with _opened(path) as file:
        for batch in _read_batches(file, [RESPONSE]):
            for text in batch.column(0).to_pylist():
                yield text.encode()


def read_written(path: Path) -> Written:
    """Read what an output has beside its records."""
    with _opened(path) as file:
        schema = file.schema_arrow
    id_type = id_type_of(schema.field(CUSTOM_ID).type)
    metadata = {
        key.decode(): value.decode()
        for key, value in (schema.metadata or {}).items()
        if key.startswith(b"aobatch.")
    }
    if not (names := [name for name in schema.names if name not in SCHEMA.names]):
        return Written(id_type, metadata=metadata)
    kept = pa.schema([schema.field(name).remove_metadata() for name in names])
    return Written(id_type, kept, _batches(path, names), metadata)


def _batches(path: Path, names: list[str]) -> Iterator[KeptBatch]:
    with _opened(path) as file:
        yield from numbered(_read_batches(file, names))


def write_records(
    records: Iterable[bytes],
    stream: BinaryIO,
    path: Path,  # noqa: ARG001 - a Format's signature
    extras: Extras,
) -> None:
    """Write a row for each record, in row groups of some megabytes."""
    id_type, kept = extras.id_type, extras.kept
    is_typed = isinstance(id_type, pa.DataType)
    schema = SCHEMA.set(0, pa.field(CUSTOM_ID, id_type)) if is_typed else SCHEMA
    own = schema
    schema = pa.schema([*schema, *(kept.table_fields if kept else ())], extras.metadata)
    with pq.ParquetWriter(
        pa.PythonFile(stream, "w"), schema, compression="zstd", use_dictionary=_REPEATED
    ) as writer:
        for rows in grouped(records):
            batch = pa.RecordBatch.from_pylist(rows, schema=SCHEMA)
            if is_typed:
                batch = batch.set_column(0, own.field(0), _typed(batch.column(0), id_type))
            columns = [*batch.columns, *(kept.columns(len(rows)) if kept else ())]
            writer.write_table(pa.table(columns, schema=schema), row_group_size=GROUP_ROWS)


def _typed(ids: pa.Array, id_type: pa.DataType) -> pa.Array:
    """Turn the custom_ids of lines back into what their tables have."""
    if not isinstance(id_type, pa.BaseExtensionType):
        return ids.cast(id_type)
    values = [None if text is None else UUID(text).bytes for text in ids.to_pylist()]
    return pa.ExtensionArray.from_storage(id_type, pa.array(values, id_type.storage_type))


def _size(value: object) -> int:
    """Guess how long a value would be as JSON, at least."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    return sum(map(_size, value)) if isinstance(value, list) else 1


def _read_batches(file: pq.ParquetFile, names: list[str]) -> Iterator[pa.RecordBatch]:
    """Yield batches of rows that take some megabytes each, whatever a row group takes."""
    for group in range(file.num_row_groups):
        size, num_rows = _batch_rows(file, group, names), 0
        for batch in file.iter_batches(size, row_groups=[group], columns=names, use_threads=False):
            num_rows += len(batch)
            yield batch
        if num_rows != (stated := file.metadata.row_group(group).num_rows):
            message = f"row group {group} states {stated} rows and has {num_rows}"
            raise pa.ArrowInvalid(message)


def _batch_rows(file: pq.ParquetFile, group: int, names: list[str]) -> int:
    metadata = file.metadata.row_group(group)
    if metadata.num_rows <= PROBE_ROWS:
        return PROBE_ROWS
    # The size that a file states is that of dictionaries and repeats, which may unfold to more.
    batches = file.iter_batches(PROBE_ROWS, row_groups=[group], columns=names, use_threads=False)
    # A damaged group may have none of the rows that it states.
    probed = max((batch.nbytes for batch in islice(batches, 1)), default=0)
    row_bytes = max(probed / PROBE_ROWS, metadata.total_byte_size / metadata.num_rows, 1)
    return max(1, min(MAX_BATCH_ROWS, int(BATCH_BYTES / row_bytes)))


@contextmanager
def _opened(path: Location) -> Iterator[pq.ParquetFile]:
    source = open_places(path) if isinstance(path, Remote) else _open_local(path)
    try:
        with pq.ParquetFile(
            source,
            buffer_size=BUFFER_BYTES,
            page_checksum_verification=True,
            thrift_string_size_limit=MAX_THRIFT_STRING,
            thrift_container_size_limit=MAX_THRIFT_ITEMS,
        ) as file:
            yield file
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(path, Path):
            refuse_other_kind(path, BUFFER_BYTES)
        reason = " ".join(str(error).split())[:300]
        message = f"{path} cannot be read to its end as Parquet: {reason}"
        raise InputError(message) from error
    finally:
        source.close()


def _open_local(path: Path) -> pa.NativeFile:
    check_input(path)
    try:
        # Not mapped: a file that is cut while it is read would end the process.
        return pa.OSFile(os.fsencode(path))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}"
        raise InputError(message) from error
