"""The shape of an answer, by whichever of its names a request asks for it: JSON, regex, choice."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import msgspec

from aobatch.api import errors
from aobatch.api.json_line import decode_value
from aobatch.api.kinds import Boolean, Text, Texts, read_object
from aobatch.errors import RequestError

MAX_BYTES: Final = 2**18
"""A schema, pattern or grammar that is longer, as UTF-8, is refused."""
MAX_CHOICES: Final = 10_000

ShapeKind: TypeAlias = Literal["json", "regex", "choice", "grammar"]


class Shape(msgspec.Struct, frozen=True, gc=False):
    """What every answer of a request must match as a whole."""

    kind: ShapeKind
    text: str
    """A JSON schema, keys in the order given; a regular expression; a JSON array; a grammar."""
    name: str = ""
    """The parameter by which the request asks for it."""


MaybeShape: TypeAlias = Shape | msgspec.UnsetType
"""UNSET where any text will do: such a field is not part of a request's key."""


def _shape(kind: ShapeKind, text: str, name: str) -> Shape:
    size = len(text.encode())
    if size > MAX_BYTES:
        reason = f"it is {size} bytes long, more than {MAX_BYTES}."
        raise errors.invalid_value(reason, name)
    return Shape(kind, text, name)


@dataclass(frozen=True, slots=True)
class JsonSchema:
    """A JSON schema, as an object or as a string that holds one."""

    def __call__(self, name: str, value: object) -> Shape:
        """Check that it is an object; what it says is compiled with the vocabulary at hand."""
        if type(value) is str:
            value = _decoded(name, value)
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object, or a string of JSON that is one", name)
        try:
            return _shape("json", json.dumps(value, ensure_ascii=False), name)
        except RecursionError as error:
            reason = "it is nested too deeply."
            raise errors.invalid_value(reason, name) from error

    def __str__(self) -> str:
        return "JSON schema: object, or string of JSON"


def _decoded(name: str, text: str) -> object:
    try:
        return decode_value(text.encode())
    except RequestError as error:
        reason = f"its text cannot be read: {error.message}"
        raise errors.invalid_value(reason, name) from error


@dataclass(frozen=True, slots=True)
class ShapeText:
    """A regular expression or a grammar."""

    kind: Literal["regex", "grammar"]

    def __call__(self, name: str, value: object) -> Shape:
        """Check the type and the length."""
        return _shape(self.kind, Text(1)(name, value), name)

    def __str__(self) -> str:
        return "string" if self.kind == "regex" else "string, Lark or GBNF"


@dataclass(frozen=True, slots=True)
class Choices:
    """An array of strings, of which the answer is one."""

    def __call__(self, name: str, value: object) -> Shape:
        """Check how many there are, and each; those that stand in it twice count once."""
        if type(value) is not list:
            raise errors.invalid_type(value, "an array of strings", name)
        choices = Texts(Text(1), MAX_CHOICES)(name, value)
        return _shape("choice", json.dumps([*dict.fromkeys(choices)], ensure_ascii=False), name)

    def __str__(self) -> str:
        return f"array of 1..{MAX_CHOICES} strings"


_TYPES = ("text", "json_object", "json_schema")
_SCHEMA_TYPES = ("array", "boolean", "integer", "null", "number", "object", "string")
_FORMAT_FIELDS = ("name", "schema", "strict", "description")


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """The OpenAI API's object; a JSON schema alone stands for `json_schema`."""

    ignores_unknown: bool = False

    def __call__(self, name: str, value: object) -> MaybeShape:
        """Check the object; `text` is no shape."""
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object", name)
        kind = value.get("type")
        if kind not in _TYPES:
            if type(kind) is str and kind not in _SCHEMA_TYPES:
                known = ", ".join(f"'{known}'" for known in _TYPES)
                reason = f"expected {known} or the type of a JSON schema."
                raise errors.invalid_value(reason, f"{name}.type")
            return JsonSchema()(name, value)
        fields = ("type", *_TYPES[2:]) if kind == "json_schema" else ("type",)
        read_object(name, value, fields, ignores_unknown=self.ignores_unknown)
        if kind == "json_schema":
            return self._schema(f"{name}.json_schema", value.get("json_schema"))
        return JsonSchema()(name, {"type": "object"}) if kind == "json_object" else msgspec.UNSET

    def _schema(self, name: str, value: object) -> Shape:
        if value is None:
            raise errors.missing_parameter(name)
        value = read_object(name, value, _FORMAT_FIELDS, ignores_unknown=self.ignores_unknown)
        for field in _FORMAT_FIELDS[:2]:
            if value.get(field) is None:
                field = f"{name}.{field}"
                raise errors.missing_parameter(field)
        Text(1, 64)(f"{name}.name", value["name"])
        if value.get("strict") is not None:
            Boolean()(f"{name}.strict", value["strict"])
        return JsonSchema()(f"{name}.schema", value["schema"])

    def __str__(self) -> str:
        return (
            'object {"type": "text", "json_object" or "json_schema", "json_schema": {"name", '
            '"schema", "strict"}}, or a JSON schema'
        )


_Reader: TypeAlias = Callable[[str, Any], Shape]
_PARTS: Mapping[str, _Reader] = {
    "json": JsonSchema(),
    "regex": ShapeText("regex"),
    "choice": Choices(),
    "grammar": ShapeText("grammar"),
}


@dataclass(frozen=True, slots=True)
class StructuredOutputs:
    """vLLM's object, with one of its fields."""

    ignores_unknown: bool = False

    def __call__(self, name: str, value: object) -> Shape:
        """Check that there is one field, and that field."""
        value = read_object(name, value, _PARTS, ignores_unknown=self.ignores_unknown)
        given = [part for part in _PARTS if value.get(part) is not None]
        if len(given) != 1:
            reason = f"it has {len(given)} of {', '.join(_PARTS)}; give one of them."
            raise errors.invalid_value(reason, name)
        return _PARTS[given[0]](f"{name}.{given[0]}", value[given[0]])

    def __str__(self) -> str:
        return 'object {"json", "regex", "choice" or "grammar"}'
