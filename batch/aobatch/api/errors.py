"""The error objects of the API: one constructor for each thing that can be wrong with a request.

The wording is that of the OpenAI API since 2024: `Invalid 'n': integer above maximum value. ...`.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Literal

import msgspec

from aobatch.errors import ErrorCode, RequestError

LONGEST_QUOTE = 64
"""More characters of a request's own text are not repeated in a message."""

Noun = Literal["integer", "decimal"]

_ABOVE: dict[Noun, ErrorCode] = {
    "integer": "integer_above_max_value",
    "decimal": "decimal_above_max_value",
}
_BELOW: dict[Noun, ErrorCode] = {
    "integer": "integer_below_min_value",
    "decimal": "decimal_below_min_value",
}


class ErrorObject(msgspec.Struct, frozen=True):
    """The documented error object; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: ErrorCode


def error_object(error: RequestError) -> ErrorObject:
    """Give the four documented fields of an error."""
    return ErrorObject(error.message, error.type, error.param, error.code)


def shorten(text: str, length: int = LONGEST_QUOTE) -> str:
    """Cut text that is quoted to 64 characters, or to another length."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def missing_parameter(name: str) -> RequestError:
    """Say that a required parameter is not there."""
    message = f"Missing required parameter: '{name}'."
    return RequestError(message, code="missing_required_parameter", param=name)


def unknown_parameter(name: str, known: Iterable[str]) -> RequestError:
    """Say that there is no such parameter, and which one was probably meant."""
    name = shorten(name)
    message = f"Unknown parameter: '{name}'.{_suggest(name, tuple(known))}"
    return RequestError(message, code="unknown_parameter", param=name)


def invalid_type(value: object, expected: str, name: str) -> RequestError:
    """Say which JSON type was expected, and which one was found."""
    message = f"Invalid type for '{name}': expected {expected}, but got {json_type(value)} instead."
    return RequestError(message, code="invalid_type", param=_parameter_of(name))


def invalid_value(reason: str, name: str) -> RequestError:
    """Say why a value of the right type cannot be used."""
    message = f"Invalid value for '{name}': {reason}"
    return RequestError(message, code="invalid_value", param=_parameter_of(name))


def above_maximum(value: float, maximum: float, noun: Noun, name: str) -> RequestError:
    """Say that a number is larger than allowed."""
    message = (
        f"Invalid '{name}': {noun} above maximum value. "
        f"Expected a value <= {maximum}, but got {shorten(str(value))} instead."
    )
    return RequestError(message, code=_ABOVE[noun], param=_parameter_of(name))


def below_minimum(value: float, minimum: float, noun: Noun, name: str) -> RequestError:
    """Say that a number is smaller than allowed."""
    message = (
        f"Invalid '{name}': {noun} below minimum value. "
        f"Expected a value >= {minimum}, but got {shorten(str(value))} instead."
    )
    return RequestError(message, code=_BELOW[noun], param=_parameter_of(name))


def empty_array(name: str) -> RequestError:
    """Say that an array needs an element."""
    message = (
        f"Invalid '{name}': empty array. "
        "Expected an array with minimum length 1, but got an empty array instead."
    )
    return RequestError(message, code="empty_array", param=_parameter_of(name))


def array_too_long(length: int, maximum: int, name: str) -> RequestError:
    """Say that an array has more elements than allowed."""
    message = (
        f"Invalid '{name}': array too long. Expected an array with maximum length {maximum}, "
        f"but got an array with length {length} instead."
    )
    return RequestError(message, code="array_above_max_length", param=_parameter_of(name))


def empty_string(name: str) -> RequestError:
    """Say that a string needs a character."""
    message = (
        f"Invalid '{name}': empty string. "
        "Expected a string with minimum length 1, but got an empty string instead."
    )
    return RequestError(message, code="empty_string", param=_parameter_of(name))


def string_too_long(length: int, maximum: int, name: str) -> RequestError:
    """Say that a string has more characters than allowed."""
    message = (
        f"Invalid '{name}': string too long. Expected a string with maximum length {maximum}, "
        f"but got a string with length {length} instead."
    )
    return RequestError(message, code="string_above_max_length", param=_parameter_of(name))


def json_type(value: object) -> str:
    """Name the JSON type of a decoded value, with its article."""
    return _JSON_TYPES.get(type(value), "another value")


_JSON_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


def _parameter_of(name: str) -> str:
    """Cut stop[3] or logit_bias.50256 to the parameter's own name."""
    return name.partition("[")[0].partition(".")[0]


@lru_cache(maxsize=256)
def _suggest(name: str, known: tuple[str, ...]) -> str:
    # A job may hold one typing error a million times, and a search costs 100 microseconds.
    matches = get_close_matches(name, known, n=1)
    return f" Did you mean '{matches[0]}'?" if matches else ""
