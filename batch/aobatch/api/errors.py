"""The error objects of the API: one constructor for each thing that can be wrong with a request.

The wording is that of the OpenAI API since 2024: `Invalid 'n': integer above maximum value. ...`.
"""

import re
from collections.abc import Collection
from typing import Final

import msgspec

from aobatch.errors import ErrorCode, RequestError
from aobatch.text import nearest

LONGEST_QUOTE = 64
"""More characters of a request's own text are not repeated in a message."""

NUMERICAL_ERROR: Final = "numerical_error"

LONGEST_FILE_REASON = 400
"""Of why a model's folder is none, which names a file by its whole path ahead of the reason."""


_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_JSON_TYPES: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a decimal number",
    str: "a string",
    list: "an array",
    dict: "an object",
}


_OTHER_NAMES = {
    "prompt": "input inputs text prompts prompt_token_ids prompt_ids input_ids input_text query",
    "max_tokens": (
        "max_completion_tokens max_output_tokens max_new_tokens max_tokens_to_sample max_length "
        "num_predict n_predict max_gen_len"
    ),
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences num_completions candidate_count num_generations",
    "temperature": "temp",
    "repetition_penalty": "repeat_penalty",
    "stop": "stop_sequences stop_sequence stop_strings stop_words until",
    "stop_token_ids": "eos_token_id eos_token_ids stop_token_id",
    "seed": "random_seed sampling_seed",
    "logprobs": "top_logprobs num_logprobs",
    "stream": "streaming",
    "custom_id": "id request_id key",
    "model": "model_id model_name",
    "user": "user_id",
}
"""What other APIs, and older ones, call our parameters."""
_HINTS = {
    "messages": " A request has a prompt, or messages as those of /v1/chat/completions.",
    "system": " Say it in the prompt, or in messages as those of /v1/chat/completions.",
}
"""What to do instead of what there is nothing like."""
_MEANT = {other: ours for ours, others in _OTHER_NAMES.items() for other in others.split()}


class ErrorObject(msgspec.Struct, frozen=True):
    """The documented error object; all four keys are always there."""

    message: str
    type: str
    param: str | None
    code: ErrorCode


def error_object(error: RequestError) -> ErrorObject:
    """Take the documented fields out of an error."""
    return ErrorObject(error.message, error.type, error.param, error.code)


def shorten(text: str, length: int = LONGEST_QUOTE) -> str:
    """Cut text that is quoted to 64 characters, or to another length."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


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


def line_too_long(noun: str, max_bytes: int) -> RequestError:
    """Say that a line or a row is longer than the job allows."""
    message = f"The {noun} is longer than {max_bytes} bytes and was not read."
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


def duplicate_custom_id(custom_id: str, *, is_envelope: bool) -> RequestError:
    """Say that an earlier line of the job has the same custom_id."""
    # An envelope must have one.
    advice = "Give every line its own." if is_envelope else "Give every line its own, or none."
    message = f"The custom_id '{shorten(custom_id)}' was used by an earlier line. {advice}"
    return RequestError(message, code="duplicate_custom_id", param="custom_id")


def missing_parameter(name: str) -> RequestError:
    """Say that a required parameter is not there."""
    message = f"Missing required parameter: '{name}'."
    return RequestError(message, code="missing_required_parameter", param=name)


def unknown_parameter(name: str, known: Collection[str]) -> RequestError:
    """Say that there is no such parameter, and which one was probably meant."""
    name = shorten(name)
    meant = meant_by(name, known)
    hint = f" Did you mean '{meant}'?" if meant else _HINTS.get(name, "")
    message = f"Unknown parameter: '{name}'.{hint}"
    return RequestError(message, code="unknown_parameter", param=name)


def unsupported_parameter(name: str, reason: str) -> RequestError:
    """Say that a parameter of the documented API asks for what models here cannot do."""
    message = f"Unsupported parameter: '{name}': {reason}."
    return RequestError(message, code="unsupported_parameter", param=_parameter_of(name))


def meant_by(name: str, known: Collection[str], *, is_exact: bool = False) -> str | None:
    """Find which of the known names was meant; None if that is not sure.

    Exact names are known ones, or what other APIs call them.
    """
    plain = _CAMEL.sub("_", name).lower().replace("-", "_")
    ours = _MEANT.get(plain, plain if is_exact else None)
    if ours in known:
        return ours
    return None if is_exact else nearest(name, tuple(known))


def invalid_type(value: object, expected: str, name: str) -> RequestError:
    """Say which JSON type was expected, and which one was found."""
    found = _JSON_TYPES.get(type(value), "another value")
    message = f"Invalid type for '{name}': expected {expected}, but got {found} instead."
    return RequestError(message, code="invalid_type", param=_parameter_of(name))


def invalid_value(reason: str, name: str) -> RequestError:
    """Say why a value of the right type cannot be used."""
    message = f"Invalid value for '{name}': {reason}"
    return RequestError(message, code="invalid_value", param=_parameter_of(name))


def out_of_bounds(
    name: str, problem: str, expected: str, got: str, code: ErrorCode
) -> RequestError:
    """Say that a number, an array or a string is larger or smaller than allowed."""
    message = f"Invalid '{name}': {problem}. Expected {expected}, but got {got} instead."
    return RequestError(message, code=code, param=_parameter_of(name))


class TokenNeed(msgspec.Struct, frozen=True):
    """The tokens that one prompt of a request asks for."""

    name: str
    """Of the prompt: prompt[2] where there are several."""
    num_prompt_tokens: int
    num_suffix_tokens: int
    max_tokens: int


def context_length_exceeded(context_length: int, need: TokenNeed) -> RequestError:
    """Say that prompt, suffix and completion do not fit, with all numbers."""
    num_read = need.num_prompt_tokens + need.num_suffix_tokens
    where = "prompt" if need.name == "prompt" else f"'{need.name}'"
    suffix = f"{need.num_suffix_tokens} in your suffix; " if need.num_suffix_tokens else ""
    if need.num_prompt_tokens > context_length:
        param, shorter = "prompt", where
    elif num_read > context_length:
        param, shorter = "suffix", f"{where} or suffix"
    else:
        param, shorter = "max_tokens", where
    message = (
        f"This model's maximum context length is {context_length} tokens, however you requested "
        f"{num_read + need.max_tokens} tokens ({need.num_prompt_tokens} in your {where}; {suffix}"
        f"{need.max_tokens} for the completion). Please reduce your {shorter} or the completion "
        "length."
    )
    return RequestError(message, code="context_length_exceeded", param=param)


def text_too_long(context_length: int, min_tokens: int, name: str) -> RequestError:
    """Say that a prompt or suffix cannot fit, however many tokens it has exactly."""
    where = f"'{name}'" if "[" in name else name
    message = (
        f"This model's maximum context length is {context_length} tokens, however your {where} has "
        f"at least {min_tokens} tokens. Please reduce your {where}."
    )
    return RequestError(message, code="context_length_exceeded", param=_parameter_of(name))


def model_not_found(reason: str) -> RequestError:
    """Say why there is no model of the name that a request gives; status 404."""
    message = shorten(reason, LONGEST_FILE_REASON)
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


def _parameter_of(name: str) -> str:
    """Cut stop[3] or logit_bias.50256 to the parameter's own name."""
    return name.partition("[")[0].partition(".")[0]
