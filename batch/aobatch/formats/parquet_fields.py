"""From the columns of a Parquet file to the fields of requests, checked before any row is read."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import repeat
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import unquote, urlsplit
from uuid import UUID

import msgspec
import pyarrow as pa
from pyarrow import types

from aobatch.api import errors, kinds, shapes
from aobatch.api.body import PARAMETERS
from aobatch.api.json_line import decode_line, decode_value
from aobatch.api.request import ENVELOPE_FIELDS
from aobatch.api.validation import IGNORED
from aobatch.errors import InputError, RequestError, UsageError
from aobatch.formats.remote import Location
from aobatch.formats.template import Template, or_error

Cells: TypeAlias = list[Any]
"""A value for each row; a RequestError stands for one that cannot be read."""

Reader: TypeAlias = Callable[[str, pa.Array], Cells]
"""Gets the name of the field and its column."""


NO_VALUE = "__HIVE_DEFAULT_PARTITION__"
"""In the name of a folder: its rows have no value."""


@dataclass(frozen=True, slots=True)
class Columns:
    """What a job says of the columns of its inputs."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The columns of fields that are not called as the field; other columns are then ignored."""
    ignores_unknown: bool = False
    """Whether columns that are no field are ignored."""
    optional: frozenset[str] = frozenset()
    """Fields that the job has a default for."""
    folders: Mapping[str, str | None] = field(default_factory=dict)
    """Columns that the folders of a file stand for, with their one value."""
    template: Template | None = None
    """What writes prompts of columns; then columns are data, but for those that are named."""
    keep: tuple[str, ...] = ()
    """Columns that go along into the output."""
    is_text: bool = False
    """Whether all cells are text, as in CSV, so that what is no text is read as JSON."""

    def check(self) -> None:
        """Refuse a column for a field that does not exist."""
        known = (*ENVELOPE_FIELDS, *PARAMETERS)
        for name in self.names:
            if name not in known:
                message = f"a request has no field '{name}' for a column{_suggest(name, known)}"
                raise UsageError(message)
        if self.template is not None and self.template.field in self.names:
            field = self.template.field
            message = f"--template gives '{field}', and --column {field} too; leave one of them out"
            raise UsageError(message)

    def at(self, path: Location) -> "Columns":
        """Add the columns that the names of a file's folders stand for, as Hive parts tables."""
        whole = path if isinstance(path, Path) else Path(urlsplit(path.uri).path)
        parts = [part.partition("=") for part in whole.parent.parts]
        named = {unquote(name): unquote(text) for name, equals, text in parts if name and equals}
        folders = {name: None if text == NO_VALUE else text for name, text in named.items()}
        return replace(self, folders=folders)


class Field(msgspec.Struct, frozen=True):
    """A field of a request and the column that gives it."""

    name: str
    columns: tuple[str, ...]
    """None of them if a folder gives all rows one value, several if a template writes it."""
    read: Callable[[pa.RecordBatch], Cells]


def plan_fields(schema: pa.Schema, path: Location, columns: Columns) -> list[Field]:
    """Say which column gives which field and how; InputError if one cannot."""
    names = schema.names
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        message = f"{path} has two columns '{twice}'; rename one of them"
        raise InputError(message)
    fields = [
        _field_of(name, schema.field(column), path, columns)
        if column in names
        else Field(name, (), _constant(name, columns.folders[column]))
        for name, column in _find_sources(names, path, columns).items()
        if name not in IGNORED
    ]
    return fields if columns.template is None else [*fields, _written(columns)]


def _written(columns: Columns) -> Field:
    """Make the field that a template writes."""
    template, folders = columns.template, columns.folders
    assert template is not None
    sources = tuple(dict.fromkeys(name for name in template.names if name not in folders))

    def read(batch: pa.RecordBatch) -> Cells:
        cells = [_read_values(name, batch.column(name)) for name in sources]
        return [_write_row(template, sources, row, folders) for row in _zipped(cells, batch)]

    return Field(template.field, sources, read)


def _zipped(cells: list[Cells], batch: pa.RecordBatch) -> Iterator[tuple[Any, ...]]:
    return zip(*cells, strict=True) if cells else repeat((), batch.num_rows)


def _write_row(
    template: Template, names: tuple[str, ...], row: tuple[Any, ...], folders: Mapping[str, Any]
) -> object:
    failed = next((cell for cell in row if type(cell) is RequestError), None)
    values = {**folders, **dict(zip(names, row, strict=True))}
    return or_error(template, values) if failed is None else failed


def read_fields(
    batch: pa.RecordBatch, fields: list[Field]
) -> Iterator[tuple[dict[str, Any], RequestError | None]]:
    """Yield the fields of each row and the first error in them; a null cell says nothing."""
    names = [field.name for field in fields]
    columns = [field.read(batch) for field in fields]
    has_errors = any(RequestError in set(map(type, column)) for column in columns)
    # A table none of whose columns is a field has rows too.
    for row in _zipped(columns, batch):
        failed = [cell for cell in row if type(cell) is RequestError] if has_errors else []
        cells = [None if type(cell) is RequestError else cell for cell in row] if failed else row
        yield dict(zip(names, cells, strict=True)), failed[0] if failed else None


def _find_sources(names: list[str], path: Location, columns: Columns) -> dict[str, str]:
    """Find the column of each field that the file has."""
    folders = [name for name in columns.folders if name not in names]
    for column in columns.names.values():
        if column not in names and column not in folders:
            message = f"{path} has no column '{column}'; it has {', '.join(names)}"
            raise InputError(message)
    if columns.template is not None:
        return _beside_template(names, path, columns)
    mapped = set(columns.names.values())
    found = {name: name for name in names if name not in mapped} | dict(columns.names)
    is_envelope = "body" in found and "prompt" not in columns.names
    known = set(ENVELOPE_FIELDS) if is_envelope else {"custom_id", *PARAMETERS, *IGNORED}
    # Whoever has a CSV has seldom a table of requests, but one of data.
    is_data = columns.is_text and not ({"prompt", "body"} & found.keys() | columns.optional)
    if not columns.names and not columns.ignores_unknown and not is_data:
        _refuse_unknown(list(found), known, path)
    # A folder whose name is no field says how files are kept, not what a request is.
    found |= {name: name for name in folders if name in known and name not in found}
    needed = set(ENVELOPE_FIELDS) if is_envelope else {"prompt"} - columns.optional
    for name in sorted(needed - found.keys()):
        if not names:
            message = f"{path} has no columns; write one for each field of its requests"
            raise InputError(message)
        message = (
            f"{path} has no column '{name}'; it has {', '.join(names)}: say which of them it is "
            f"with --column {name}=NAME, or write prompts of them with --template"
        )
        raise InputError(message)
    return {name: column for name, column in found.items() if name in known}


def _beside_template(names: list[str], path: Location, columns: Columns) -> dict[str, str]:
    """Find the columns of the fields that the template does not write: those that are named."""
    template = columns.template
    assert template is not None
    template.check([*names, *columns.folders], str(path))
    own = {} if "custom_id" not in names else {"custom_id": "custom_id"}
    return {**own, **columns.names}


def _refuse_unknown(names: list[str], known: set[str], path: Location) -> None:
    # pandas keeps the index of a table in columns of such names.
    unknown = [name for name in names if name not in known and not name.startswith("__index_")]
    if unknown:
        named = [f"{name}{_suggest(name, tuple(known))}" for name in unknown]
        message = (
            f"{path} has columns that are no field of a request: {', '.join(named)}; drop them, "
            "name them with --column FIELD=NAME, or ignore them with --ignore-unknown"
        )
        raise InputError(message)


def _suggest(name: str, known: tuple[str, ...]) -> str:
    meant = errors.meant_by(name, known)
    return f" (did you mean '{meant}'?)" if meant else ""


def _constant(name: str, text: str | None) -> Callable[[pa.RecordBatch], Cells]:
    """Make a reader of what a folder says: text where the field may be text, else JSON."""
    value: object = text
    if text is not None and not _may_be_text(name):
        with suppress(RequestError):
            value = decode_value(text.encode())
    return lambda batch: [value] * batch.num_rows


def _field_of(name: str, column: pa.Field, path: Location, columns: Columns) -> Field:
    reader = _reader_of(name, column, path, columns)
    return Field(name, (column.name,), lambda batch: reader(name, batch.column(column.name)))


def _reader_of(name: str, column: pa.Field, path: Location, columns: Columns) -> Reader:
    if name == "body" and types.is_struct(column.type):
        children = list(column.type)
        if not columns.ignores_unknown:
            _refuse_unknown([child.name for child in children], {*PARAMETERS, *IGNORED}, path)
        return _body_reader(
            [
                _field_of(child.name, child, path, columns)
                for child in children
                if child.name in PARAMETERS
            ]
        )
    shape, accepted = _shape(column.type), _accepted(name)
    if columns.is_text and name not in ("custom_id", *ENVELOPE_FIELDS) and not _may_be_text(name):
        return _read_documents_or_nothing
    for pattern, reader, _ in (*accepted, ("j", _read_documents, "")):
        if shape == "0" or re.fullmatch(pattern, shape):
            return reader
    expected = ", or ".join(words for _, _, words in accepted)
    message = (
        f"column '{column.name}' of {path} is of type {column.type}, but '{name}' needs "
        f"{expected}; convert it"
    )
    raise InputError(message)


def _may_be_text(name: str) -> bool:
    return any(pattern == "t" for pattern, _, _ in _accepted(name))


def _read_documents_or_nothing(name: str, array: pa.Array) -> Cells:
    """Read JSON of cells of text, of which an empty one says nothing."""
    return _read_documents(name, pa.array([text or None for text in array.to_pylist()]))


def _accepted(name: str) -> list[tuple[str, Reader, str]]:
    kind = type(PARAMETERS[name].kind) if name in PARAMETERS else name
    return _ACCEPTED.get(kind, [_TEXT])


_EXTENSIONS = {"arrow.json": "j", "arrow.uuid": "u", "arrow.bool8": "b"}
_LETTERS: tuple[tuple[Callable[[pa.DataType], bool], str], ...] = (
    (types.is_null, "0"),
    (types.is_string, "t"),
    (types.is_large_string, "t"),
    (types.is_string_view, "t"),
    (types.is_integer, "i"),
    (types.is_floating, "n"),
    (types.is_decimal, "n"),
    (types.is_boolean, "b"),
)


def _shape(found: pa.DataType) -> str:
    """Write a type shortly: [t] a list of texts, <n> a map of numbers, {n0} a struct of such.

    A letter is a value: t text, i integer, n number, b boolean, j JSON, u UUID, 0 null, ? anything
    else.
    """
    if isinstance(found, pa.BaseExtensionType):
        return _EXTENSIONS.get(found.extension_name) or _shape(found.storage_type)
    if types.is_dictionary(found):
        return _shape(found.value_type)
    is_list = types.is_list(found) or types.is_large_list(found)
    if is_list or types.is_fixed_size_list(found) or types.is_list_view(found):
        return f"[{_shape(found.value_type)}]"
    if types.is_map(found) and _shape(found.key_type) in {"t", "i"}:
        return f"<{_shape(found.item_type)}>"
    if types.is_struct(found):
        return f"{{{''.join(_shape(child.type) for child in found)}}}"
    return next((letter for is_it, letter in _LETTERS if is_it(found)), "?")


def id_type_of(found: pa.DataType) -> pa.DataType | None:
    """Give the type of a column of custom_ids that is not text."""
    plain = found.value_type if types.is_dictionary(found) else found
    return plain if _shape(plain) in {"i", "n", "u"} else None


def _read_values(_name: str, array: pa.Array) -> Cells:
    if types.is_dictionary(array.type):
        array = array.dictionary_decode()
    elif _is_plain_extension(array.type):
        array = array.storage
    try:
        values: Cells = array.to_pylist()
    except UnicodeDecodeError:
        values = [_read_cell(cell) for cell in array]
    return values


def _read_cell(cell: pa.Scalar) -> object:
    try:
        return cell.as_py()
    except UnicodeDecodeError as error:
        return errors.invalid_utf8(error.start + 1)


def _is_plain_extension(found: pa.DataType) -> bool:
    is_extension = isinstance(found, pa.BaseExtensionType)
    return is_extension and found.extension_name not in _EXTENSIONS


def _read_numbers(name: str, array: pa.Array) -> Cells:
    """Read numbers of any type; NaN is how tables write that there is none."""
    return [_number_of(value) for value in _read_values(name, array)]


def _read_integers(name: str, array: pa.Array) -> Cells:
    """Read whole numbers of any type, as which a column of integers with a gap may be kept."""
    values = _read_values(name, array)
    return values if types.is_integer(array.type) else [_whole_of(value) for value in values]


def _number_of(value: object) -> object:
    if not isinstance(value, float | Decimal):
        return value
    return None if math.isnan(value) else float(value)


def _whole_of(value: object) -> object:
    if not isinstance(value, float | Decimal) or not math.isfinite(value):
        return _number_of(value)
    return int(value) if value == int(value) else float(value)


def _read_identifiers(name: str, array: pa.Array) -> Cells:
    """Read whole numbers and UUIDs as the strings that a custom_id is."""
    values = _read_integers(name, array)
    return [str(value) if isinstance(value, int | UUID) else value for value in values]


def _read_documents(name: str, array: pa.Array) -> Cells:
    """Read values that are marked as JSON."""
    return [_decode_document(name, text) for text in _read_values(name, array)]


def _decode_document(name: str, text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        return decode_value(text.encode())
    except RequestError as error:
        return errors.invalid_value(error.message, name)


def _read_json(name: str, array: pa.Array) -> Cells:
    """Read strings that hold a JSON object each."""
    return [_decode(name, text) for text in _read_values(name, array)]


def _decode(name: str, text: object) -> object:
    if not isinstance(text, str):
        return text
    try:
        decoded = decode_line(text.encode())
        decoded.check()
    except RequestError as error:
        reason = f"its text is not a JSON object: {error.message}"
        return errors.invalid_value(reason, name)
    return decoded.fields


def _read_mappings(name: str, array: pa.Array) -> Cells:
    """Read maps and structs as objects; a null in a struct says that the key is not there."""
    return [_object_of(name, cell) for cell in _read_values(name, array)]


def _object_of(name: str, cell: object) -> object:
    if isinstance(cell, dict):
        numbers = ((key, _number_of(value)) for key, value in cell.items())
        return {key: value for key, value in numbers if value is not None}
    if not isinstance(cell, list):
        return cell
    pairs = {str(key): _number_of(value) for key, value in cell}
    return pairs if len(pairs) == len(cell) else errors.duplicate_key(name)


def _read_nested(name: str, array: pa.Array) -> Cells:
    """Read maps and structs of any depth as objects; what is null in them is not there."""
    return [_nested_of(value) for value in _read_values(name, array)]


def _nested_of(value: object) -> object:
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        value = dict(value)
    if isinstance(value, dict):
        return {str(key): _nested_of(part) for key, part in value.items() if part is not None}
    return [_nested_of(part) for part in value] if isinstance(value, list) else value


def _body_reader(fields: list[Field]) -> Reader:
    """Make a reader of structs whose children are fields."""

    def read(_name: str, array: pa.Array) -> Cells:
        # Flattened, children are null where the struct is.
        children = dict(zip((f.name for f in array.type), array.flatten(), strict=True))
        batch = pa.RecordBatch.from_arrays(list(children.values()), list(children))
        rows = zip(read_fields(batch, fields), array.is_valid().to_pylist(), strict=True)
        return [(error or body) if is_valid else None for (body, error), is_valid in rows]

    return read


_TEXT: tuple[str, Reader, str] = ("t", _read_values, "strings")
_NESTED: list[tuple[str, Reader, str]] = [
    (r"<.*>|\{.*\}", _read_nested, "maps or structs"),
    ("t", _read_json, "strings of JSON"),
]
_ACCEPTED: dict[object, list[tuple[str, Reader, str]]] = {
    "custom_id": [_TEXT, ("[inu]", _read_identifiers, "integers")],
    "body": [("t", _read_json, "structs, or strings of JSON")],
    kinds.Text: [_TEXT, ("u", _read_identifiers, "UUIDs")],
    kinds.Integer: [("[in]", _read_integers, "integers")],
    kinds.Number: [("[in]", _read_numbers, "numbers")],
    kinds.Boolean: [("b", _read_values, "booleans")],
    kinds.Prompts: [
        _TEXT,
        (r"\[[t0]\]", _read_values, "lists of strings"),
        (r"\[i\]", _read_values, "lists of token ids"),
        (r"\[\[[i0]\]\]", _read_values, "lists of lists of token ids"),
    ],
    kinds.Texts: [_TEXT, (r"\[[t0]\]", _read_values, "lists of strings")],
    kinds.TokenIdList: [(r"\[[i0]\]", _read_values, "lists of token ids")],
    kinds.LogitBias: [
        (r"<[in]>|\{[in0]+\}", _read_mappings, "maps or structs of numbers"),
        ("t", _read_json, "strings of JSON"),
    ],
    kinds.StreamOptions: [
        (r"<b>|\{[b0]+\}", _read_mappings, "structs of booleans"),
        ("t", _read_json, "strings of JSON"),
    ],
    shapes.ResponseFormat: _NESTED,
    shapes.StructuredOutputs: _NESTED,
    shapes.JsonSchema: _NESTED,
    shapes.Choices: [
        (r"\[[t0]\]", _read_values, "lists of strings"),
        ("t", _read_documents, "strings of JSON"),
    ],
}
"""The types that a field or a kind of parameter may have, with their readers and names."""
