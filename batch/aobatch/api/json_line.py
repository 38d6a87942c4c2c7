"""From the bytes of one line to a JSON object, more strictly than the standard library decodes.

What takes much memory or stack to decode is refused by a look at its bytes; numbers that JSON does
not have, keys that stand twice and halves of characters are errors.
"""

import json
import math
import re
from functools import partial
from itertools import accumulate, islice

import msgspec

from aobatch.api import errors
from aobatch.errors import RequestError

MAX_DEPTH = 64

MAX_PARTS = 2**20
"""Strings of a line, and arrays and objects: decoded, they take far more than their few bytes."""

# Possessive, so that a line of quotes and backslashes costs no more than its length.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# What the decoder leaves of them: it joins the halves of a pair to one character.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """The object of a line, and what makes it unusable although its custom_id can be read."""

    fields: dict[str, object]
    repeated_keys: tuple[str, ...] = ()
    has_lone_surrogate: bool = False

    def check(self) -> None:
        """Raise RequestError if a key stands twice or a string is not Unicode text.

        A key that stands twice and is not Unicode text could not be named, and is a string too.
        """
        if self.repeated_keys and is_unicode(self.repeated_keys[0]):
            raise errors.duplicate_key(self.repeated_keys[0])
        if self.has_lone_surrogate:
            raise errors.invalid_unicode()


def decode_line(raw: bytes) -> Decoded:
    """Decode a line; RequestError if the bytes are no UTF-8, too deep, or no JSON object."""
    fields, repeated_keys, has_lone_surrogate = _decode(raw)
    if type(fields) is not dict:
        error_of_type = errors.invalid_type(fields, "an object", "line")
        raise RequestError(error_of_type.message, code=error_of_type.code)
    return Decoded(fields, repeated_keys, has_lone_surrogate)


def decode_value(raw: bytes) -> object:
    """Decode a JSON value of any kind; RequestError also for what would make a line unusable."""
    value, repeated_keys, has_lone_surrogate = _decode(raw)
    Decoded({}, repeated_keys, has_lone_surrogate).check()
    return value


def _decode(raw: bytes) -> tuple[object, tuple[str, ...], bool]:
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_utf8(error.start + 1) from error
    _check_structure(raw)
    repeated_keys: list[str] = []
    value = _decode_json(text, repeated_keys)
    is_suspect = _SURROGATE_ESCAPE.search(text) is not None
    return value, tuple(repeated_keys), is_suspect and not is_unicode(value)


def _decode_json(text: str, repeated_keys: list[str]) -> object:
    decoder = json.JSONDecoder(
        object_pairs_hook=partial(_object, repeated_keys),
        parse_float=_finite,
        parse_constant=_no_constant,
    )
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        is_mark = text[error.pos : error.pos + 1] == "\ufeff"
        what = (
            "files were joined without a line feed; one begins, with a byte-order mark,"
            if is_mark
            else error.msg.removesuffix(" at")
        )
        reason = f"{what} at character {error.pos + 1}"
        raise errors.invalid_json(reason) from error
    except ValueError as error:
        # Python's own guard: integers of more than 4300 digits.
        reason = "a number has too many digits"
        raise errors.invalid_json(reason) from error


def _object(repeated_keys: list[str], pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        seen: set[str] = set()
        for name, _ in pairs:
            if name in seen:
                repeated_keys.append(name)
            seen.add(name)
    return fields


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        reason = "a number is too large"
        raise errors.invalid_json(reason)
    return number


def _no_constant(text: str) -> float:
    reason = f"{text} is not a number of JSON"
    raise errors.invalid_json(reason)


def _check_structure(raw: bytes) -> None:
    """Raise RequestError if a line nests more than 64 deep or has too many parts, unparsed."""
    num_opening = raw.count(b"[") + raw.count(b"{")
    if num_opening <= MAX_DEPTH and raw.count(b'"') <= MAX_PARTS:
        return
    # Not by the list of all strings, which would take what this is to save.
    if next(islice(_STRING.finditer(raw), MAX_PARTS, None), None):
        raise errors.too_many_parts(MAX_PARTS)
    steps = _nesting(raw)
    # Whatever comes later than this, there are too many parts.
    if _exceeds_depth(steps[: 2 * MAX_PARTS]):
        raise errors.too_deep(MAX_DEPTH)
    if steps.tobytes().count(1) > MAX_PARTS:
        raise errors.too_many_parts(MAX_PARTS)


def is_too_deep(raw: bytes) -> bool:
    """Say whether brackets outside of strings nest more than 64 deep, without parsing."""
    return _exceeds_depth(_nesting(raw))


def _nesting(raw: bytes) -> memoryview:
    """Write 1 for each bracket that opens outside of strings, -1 for each that closes."""
    return memoryview(_STRING.sub(b"", raw).translate(_STEPS, _NO_BRACKETS)).cast("b")


def _exceeds_depth(steps: memoryview) -> bool:
    return any(depth > MAX_DEPTH for depth in accumulate(steps))


def is_unicode(value: object) -> bool:
    """Say whether all strings of a decoded value can be written as UTF-8."""
    if isinstance(value, str):
        return _LONE_SURROGATE.search(value) is None
    if isinstance(value, dict):
        return all(map(is_unicode, value)) and all(map(is_unicode, value.values()))
    return not isinstance(value, list | tuple) or all(map(is_unicode, value))
