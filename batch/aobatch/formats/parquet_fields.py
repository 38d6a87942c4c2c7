"""From the columns of a Parquet file to the fields of requests, checked before any row is read."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, TypeAlias

import msgspec
import pyarrow as pa
from pyarrow import types

from aobatch.api import errors
from aobatch.api.body import PARAMETERS
from aobatch.api.json_line import LineDecoder
from aobatch.api.kinds import (
    Boolean,
    Integer,
    Kind,
    LogitBias,
    Number,
    Prompts,
    StreamOptions,
    Text,
    TokenIdList,
)
from aobatch.api.kinds import Texts as TextList
from aobatch.api.request import ENVELOPE_FIELDS
from aobatch.api.validation import IGNORED
from aobatch.errors import InputError, RequestError, UsageError
from aobatch.formats.remote import Location
from aobatch.text import nearest


@dataclass(frozen=True, slots=True)
class Columns:
    """What a job says of the columns of its inputs."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The columns of fields that are not called as the field; other columns are then ignored."""
    ignores_unknown: bool = False
    """Whether columns that are no field are ignored."""
    optional: frozenset[str] = frozenset()
    """Fields that the job has a default for."""

    def check(self) -> None:
        """Refuse a column for a field that does not exist."""
        known = [*ENVELOPE_FIELDS, *PARAMETERS]
        for name in self.names:
            if name not in known:
                message = f"a request has no field '{name}' for a column{suggest(name, known)}"
                raise UsageError(message)


def suggest(name: str, known: Iterable[str]) -> str:
    """Ask whether a known name was meant, if one is like this one."""
    meant = nearest(name, tuple(known))
    return f" (did you mean '{meant}'?)" if meant else ""


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
    return [_body_object(name, cell) for cell in read_values(name, array)]


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


def _body_object(name: str, cell: object) -> object:
    if isinstance(cell, dict):
        return {key: value for key, value in cell.items() if value is not None}
    if not isinstance(cell, list):
        return cell
    pairs = {str(key): value for key, value in cell}
    return pairs if len(pairs) == len(cell) else errors.duplicate_key(name)


Test = Callable[[Any], bool]


def plan_fields(schema: pa.Schema, path: Location, columns: Columns) -> list[Field]:
    """Say which column gives which field and how; InputError if one cannot."""
    names = schema.names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{path} has two columns '{twice}'; rename one of them"
        raise InputError(message)
    sources = _find_sources(names, path, columns)
    return [
        Field(name, column, _reader_of(name, schema.field(column).type, column, path, columns))
        for name, column in sources.items()
        if name not in IGNORED
    ]


def _find_sources(names: list[str], path: Location, columns: Columns) -> dict[str, str]:
    """Give the column of each field that the file has."""
    for column in columns.names.values():
        if column not in names:
            message = f"{path} has no column '{column}'; it has {', '.join(names)}"
            raise InputError(message)
    mapped = set(columns.names.values())
    found = {name: name for name in names if name not in mapped} | dict(columns.names)
    is_envelope = "body" in found and "prompt" not in columns.names
    known = set(ENVELOPE_FIELDS) if is_envelope else {"custom_id", *PARAMETERS, *IGNORED}
    if not columns.names and not columns.ignores_unknown:
        _refuse_unknown(found, known, path)
    needed = set(ENVELOPE_FIELDS) if is_envelope else {"prompt"} - columns.optional
    for name in sorted(needed - found.keys()):
        if not names:
            message = f"{path} has no columns; write one for each field of its requests"
            raise InputError(message)
        message = (
            f"{path} has no column '{name}'; it has {', '.join(names)}: say which of them it is "
            f"with --column {name}=NAME"
        )
        raise InputError(message)
    return {name: column for name, column in found.items() if name in known}


def _refuse_unknown(found: dict[str, str], known: set[str], path: Location) -> None:
    # pandas keeps the index of a table in columns of such names.
    unknown = [name for name in found if name not in known and not name.startswith("__index_")]
    if unknown:
        message = (
            f"{path} has columns that are no field of a request: {', '.join(unknown)}"
            f"{suggest(unknown[0], known)}; drop them, name them with "
            "--column FIELD=NAME, or ignore them with --ignore-unknown"
        )
        raise InputError(message)


def _reader_of(
    name: str, found: pa.DataType, column: str, path: Location, columns: Columns
) -> Reader:
    if name == "body" and types.is_struct(found):
        if not columns.ignores_unknown:
            names = {child.name: child.name for child in found}
            _refuse_unknown(names, {*PARAMETERS, *IGNORED}, path)
        return read_bodies(
            [
                Field(
                    child.name,
                    child.name,
                    _reader_of(child.name, child.type, child.name, path, columns),
                )
                for child in found
                if child.name in PARAMETERS
            ]
        )
    for test, reader, _ in _accepted(name):
        if types.is_null(found) or test(found):
            return reader
    expected = ", or ".join(words for _, _, words in _accepted(name))
    message = (
        f"column '{column}' of {path} is of type {found}, but '{name}' needs {expected}; convert it"
    )
    raise InputError(message)


def _accepted(name: str) -> list[tuple[Test, Reader, str]]:
    """Give the types that a field may have, with their readers and names."""
    if name == "custom_id":
        return [(_is_text, read_values, "strings"), (_is_integer, read_identifiers, "integers")]
    if name in PARAMETERS:
        return _ACCEPTED[type(PARAMETERS[name].kind)]
    if name == "body":
        return [(_is_text, read_json, "structs, or strings of JSON")]
    return [(_is_text, read_values, "strings")]


def _plain(found: pa.DataType) -> pa.DataType:
    return found.value_type if types.is_dictionary(found) else found


def _is_text(found: pa.DataType) -> bool:
    plain = _plain(found)
    return bool(
        types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)
    )


def _is_integer(found: pa.DataType) -> bool:
    return bool(types.is_integer(_plain(found)))


def _is_number(found: pa.DataType) -> bool:
    return _is_integer(found) or bool(types.is_floating(_plain(found)))


def _is_boolean(found: pa.DataType) -> bool:
    return bool(types.is_boolean(found))


def _list_of(test: Test) -> Test:
    def is_list(found: pa.DataType) -> bool:
        is_some = types.is_list(found) or types.is_large_list(found)
        is_some = is_some or types.is_fixed_size_list(found) or types.is_list_view(found)
        return bool(is_some) and (types.is_null(found.value_type) or test(found.value_type))

    return is_list


def _object_of(test: Test) -> Test:
    def is_object(found: pa.DataType) -> bool:
        if types.is_map(found):
            keys = _is_text(found.key_type) or _is_integer(found.key_type)
            return keys and test(found.item_type)
        children = list(found) if types.is_struct(found) else []
        return bool(children) and all(
            types.is_null(child.type) or test(child.type) for child in children
        )

    return is_object


_JSON: tuple[Test, Reader, str] = (_is_text, read_json, "strings of JSON")
_ACCEPTED: dict[type[Kind], list[tuple[Test, Reader, str]]] = {
    Text: [(_is_text, read_values, "strings")],
    Integer: [(_is_integer, read_values, "integers")],
    Number: [(_is_number, read_values, "numbers")],
    Boolean: [(_is_boolean, read_values, "booleans")],
    Prompts: [
        (_is_text, read_values, "strings"),
        (_list_of(_is_text), read_values, "lists of strings"),
        (_list_of(_is_integer), read_values, "lists of token ids"),
        (_list_of(_list_of(_is_integer)), read_values, "lists of lists of token ids"),
    ],
    TextList: [
        (_is_text, read_values, "strings"),
        (_list_of(_is_text), read_values, "lists of strings"),
    ],
    TokenIdList: [(_list_of(_is_integer), read_values, "lists of token ids")],
    LogitBias: [(_object_of(_is_number), read_mappings, "maps or structs of numbers"), _JSON],
    StreamOptions: [(_object_of(_is_boolean), read_mappings, "structs of booleans"), _JSON],
}
