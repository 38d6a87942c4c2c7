"""From the columns of a Parquet file to the fields of requests, checked before any row is read."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
from pyarrow import types

from aobatch.api.body import PARAMETERS
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
from aobatch.errors import InputError
from aobatch.formats.columns import Columns, suggest
from aobatch.formats.location import Location
from aobatch.formats.parquet_columns import (
    Field,
    Reader,
    read_bodies,
    read_identifiers,
    read_json,
    read_mappings,
    read_values,
)

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
