"""Cells of Parquet columns as the values that JSON would give."""

from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa

from aobatch.api import errors
from aobatch.api.json_line import LineDecoder
from aobatch.errors import RequestError

Cells: TypeAlias = list[Any]
"""A value for each row; a RequestError stands for one that cannot be read."""

Reader: TypeAlias = Callable[[str, pa.Array], Cells]
"""Gets the name of the field and its column."""


class Field(msgspec.Struct, frozen=True):
    """A field of a request and the column that gives it."""

    name: str
    column: str
    read: Reader


def read_fields(
    batch: pa.RecordBatch, fields: list[Field]
) -> Iterator[tuple[dict[str, Any], RequestError | None]]:
    """Yield the fields of each row and the first error in them; a null cell says nothing."""
    names = [field.name for field in fields]
    columns = [field.read(field.name, batch.column(field.column)) for field in fields]
    has_errors = any(RequestError in set(map(type, column)) for column in columns)
    # A table none of whose columns is a field has rows too.
    rows = zip(*columns, strict=True) if columns else repeat((), batch.num_rows)
    for row in rows:
        error = (
            next((cell for cell in row if type(cell) is RequestError), None) if has_errors else None
        )
        if error is None:
            yield dict(zip(names, row, strict=True)), None
        else:
            readable = [cell if type(cell) is not RequestError else None for cell in row]
            yield dict(zip(names, readable, strict=True)), error


def read_values(_name: str, array: pa.Array) -> Cells:
    """Read cells whose types are those of JSON."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        values: Cells = array.to_pylist()
    except UnicodeDecodeError:
        values = [_read_cell(cell) for cell in array]
    return values


def read_identifiers(name: str, array: pa.Array) -> Cells:
    """Read integers as the strings that a custom_id is."""
    return [None if value is None else str(value) for value in read_values(name, array)]


def read_json(name: str, array: pa.Array) -> Cells:
    """Read strings that hold a JSON object each."""
    decoder = LineDecoder()
    return [_decode(name, text, decoder) for text in read_values(name, array)]


def read_mappings(name: str, array: pa.Array) -> Cells:
    """Read maps and structs as objects; a null in a struct says that the key is not there."""
    return [_object_of(name, cell) for cell in read_values(name, array)]


def read_bodies(fields: list[Field]) -> Reader:
    """Give a reader of structs whose children are fields."""

    def read(_name: str, array: pa.Array) -> Cells:
        # Flattened, children are null where the struct is.
        children = dict(zip((f.name for f in array.type), array.flatten(), strict=True))
        batch = pa.RecordBatch.from_arrays(
            [children[field.column] for field in fields], [field.column for field in fields]
        )
        bodies: Cells = [
            fields if error is None else error for fields, error in read_fields(batch, fields)
        ]
        return [
            body if is_valid else None
            for body, is_valid in zip(bodies, array.is_valid().to_pylist(), strict=True)
        ]

    return read


def _read_cell(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return errors.invalid_utf8(error.start + 1)


def _decode(name: str, text: object, decoder: LineDecoder) -> object:
    if not isinstance(text, str):
        return text
    try:
        decoded = decoder.decode(text.encode())
        decoded.check()
    except RequestError as error:
        reason = f"its text is not a JSON object: {error.message}"
        return errors.invalid_value(reason, name)
    return decoded.fields


def _object_of(name: str, cell: object) -> object:
    if isinstance(cell, dict):
        return {key: value for key, value in cell.items() if value is not None}
    if not isinstance(cell, list):
        return cell
    pairs = {str(key): value for key, value in cell}
    return pairs if len(pairs) == len(cell) else errors.duplicate_key(name)
