"""The error objects of the API: one constructor for each thing that can be wrong with a request.

The wording is that of the OpenAI API since 2024: `Invalid 'n': integer above maximum value. ...`.
"""

from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from aobatch.errors import ErrorCode, RequestError
from aobatch.text import nearest

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
    meant = nearest(name, tuple(known))
    message = f"Unknown parameter: '{name}'." + (f" Did you mean '{meant}'?" if meant else "")
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


NUMERICAL_ERROR: Final = "numerical_error"

LONGEST_REASON = 200
"""More characters of what a library or the system says are not repeated in a message."""


def invalid_json(reason: str) -> RequestError:
    """Say where a line stops being JSON."""
    return RequestError(f"This line is not valid JSON: {reason}.", code="invalid_json_line")


def invalid_utf8(position: int) -> RequestError:
    """Say which byte of the line, counted from 1, is not UTF-8."""
    message = f"This line is not UTF-8: byte {position} cannot be decoded. Save the file as UTF-8."
    return RequestError(message, code="invalid_utf8")


def too_deep(maximum: int) -> RequestError:
    """Say that arrays and objects are nested too deeply."""
    message = f"This line nests arrays and objects more than {maximum} deep."
    return RequestError(message, code="too_deep")


def too_many_parts(maximum: int) -> RequestError:
    """Say that a line would take too much memory once it is decoded."""
    message = (
        f"This line has more than {maximum} strings, or arrays and objects, and was not read. "
        "Split it into several lines."
    )
    return RequestError(message, code="line_too_long")


def duplicate_key(name: str) -> RequestError:
    """Say that an object names one key twice, so that its value is uncertain."""
    name = shorten(name)
    message = f"The key '{name}' stands twice in one object. Keep one of them."
    return RequestError(message, code="duplicate_key", param=name)


def invalid_unicode() -> RequestError:
    """Say that an escape stands for half a character."""
    message = (
        "A string of this line has half of a surrogate pair (an escape from \\ud800 to \\udfff "
        "without its other half), which is not a character."
    )
    return RequestError(message, code="invalid_unicode")


def invalid_url(url: str, expected: str) -> RequestError:
    """Say that a batch line asks for another endpoint."""
    message = f"Invalid 'url': expected '{expected}', but got '{shorten(url)}' instead."
    return RequestError(message, code="invalid_url", param="url")


def duplicate_custom_id(custom_id: str) -> RequestError:
    """Say that an earlier line of the job has the same custom_id."""
    message = (
        f"The custom_id '{shorten(custom_id)}' was used by an earlier line. "
        "Give every line its own, or none."
    )
    return RequestError(message, code="duplicate_custom_id", param="custom_id")


def context_length_exceeded(
    context_length: int, num_prompt_tokens: int, max_tokens: int
) -> RequestError:
    """Say that prompt and completion do not fit, with all numbers."""
    message = (
        f"This model's maximum context length is {context_length} tokens, however you requested "
        f"{num_prompt_tokens + max_tokens} tokens ({num_prompt_tokens} in your prompt; "
        f"{max_tokens} for the completion). Please reduce your prompt or the completion length."
    )
    param = "prompt" if num_prompt_tokens > context_length else "max_tokens"
    return RequestError(message, code="context_length_exceeded", param=param)


def prompt_too_long(context_length: int, min_tokens: int) -> RequestError:
    """Say that a prompt cannot fit, however many tokens it has exactly."""
    message = (
        f"This model's maximum context length is {context_length} tokens, however your prompt has "
        f"at least {min_tokens} tokens. Please reduce your prompt."
    )
    return RequestError(message, code="context_length_exceeded", param="prompt")


def model_not_found(reason: str) -> RequestError:
    """Say why there is no model of the name that a request gives; status 404."""
    # It may name a file by its whole path ahead of what is wrong with it.
    message = shorten(reason, 2 * LONGEST_REASON)
    return RequestError(message, code="model_not_found", param="model", status_code=404)


def numerical_error() -> RequestError:
    """Say that the model computed no usable number for this request; status 500."""
    message = "The model's scores for this request hold NaN or infinity, so no token can be chosen."
    return RequestError(message, code=NUMERICAL_ERROR, status_code=500)


def engine_crash() -> RequestError:
    """Say that processes died of this request, the last one while it computed nothing else; 500."""
    message = (
        "The process that computed this request died, also when it computed nothing else, so the "
        "request was given up; --retry-failed tries it again."
    )
    return RequestError(message, code="engine_crash", status_code=500)


def insufficient_memory() -> RequestError:
    """Say that this request alone needs more memory than there is; status 500."""
    message = (
        "This machine has too little memory to compute this request, even alone. Shorten the "
        "prompt or max_tokens, or run the job where there is more."
    )
    return RequestError(message, code="insufficient_memory", status_code=500)
