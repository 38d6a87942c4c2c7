"""From the bytes of one line to a JSON object, more strictly than the standard library decodes."""

import json
import math
import re
from itertools import accumulate, islice

import msgspec

from aobatch.api import errors
from aobatch.api.errors import invalid_type
from aobatch.errors import RequestError

MAX_DEPTH = 64

MAX_PARTS = 2**20
"""Strings of a line, and arrays and objects: decoded, they take far more than their few bytes."""

_DECODER = msgspec.json.Decoder()
_SPACED_COLONS = (b" :", b"\t:", b"\r:", b"\n:")


def decode_plain(raw: bytes) -> dict[str, object] | None:
    """Give the object of a line that is right in every way, None if that is not certain.

    msgspec refuses all that the strict decoder refuses but a key that stands twice, of which it
    keeps the last.
    """
    if raw.count(b"[") + raw.count(b"{") > MAX_DEPTH or len(raw) > MAX_PARTS:
        return None
    try:
        fields = _DECODER.decode(raw)
    except (ValueError, RecursionError):
        return None
    if type(fields) is not dict:
        return None
    return fields if _has_no_repeated_key(raw, _count_members(fields)) else None


def _has_no_repeated_key(raw: bytes, num_members: int) -> bool:
    """Say whether it is certain that the text has no more members than were decoded.

    Each member of the text has its colon, and its quote and colon if no space stands between.
    """
    if raw.count(b":") == num_members:
        return True
    return raw.count(b'":') == num_members and not any(colon in raw for colon in _SPACED_COLONS)


def _count_members(fields: dict[str, object]) -> int:
    # Objects inside arrays are left out: no right request has any, and fewer is only less certain.
    nested = [value for value in fields.values() if type(value) is dict]
    return len(fields) + sum(map(_count_members, nested)) if nested else len(fields)


# Possessive, so that a line of quotes and backslashes costs no more than its length.
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")
# What the decoder leaves of them: it joins the halves of a pair to one character.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class _NotJsonError(ValueError):
    """A number that the standard library reads and JSON does not have."""


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


class LineDecoder:
    """Decodes lines; holds the JSON decoder and the repeated keys of the line at hand."""

    def __init__(self) -> None:
        self._repeated_keys: list[str] = []
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_float=_finite, parse_constant=_no_constant
        )

    def decode(self, raw: bytes) -> Decoded:
        """Give the object; RequestError if the bytes are no UTF-8, too deep, or no JSON object."""
        plain = decode_plain(raw)
        if plain is not None:
            return Decoded(plain)
        return self._decode_strictly(raw)

    def _decode_strictly(self, raw: bytes) -> Decoded:
        text = _decode_utf8(raw)
        check_structure(raw)
        self._repeated_keys.clear()
        fields = self._parse(text)
        if type(fields) is not dict:
            error = invalid_type(fields, "an object", "line")
            raise RequestError(error.message, code=error.code)
        is_suspect = _SURROGATE_ESCAPE.search(text) is not None
        return Decoded(fields, tuple(self._repeated_keys), is_suspect and not is_unicode(fields))

    def _parse(self, text: str) -> object:
        try:
            return self._decoder.decode(text)
        except json.JSONDecodeError as error:
            reason = f"{error.msg.removesuffix(' at')} at character {error.pos + 1}"
            raise errors.invalid_json(reason) from error
        except _NotJsonError as error:
            raise errors.invalid_json(str(error)) from error
        except ValueError as error:
            # Python's own guard: integers of more than 4300 digits.
            reason = "a number has too many digits"
            raise errors.invalid_json(reason) from error

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        fields = dict(pairs)
        if len(fields) != len(pairs):
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    self._repeated_keys.append(name)
                seen.add(name)
        return fields


def check_structure(raw: bytes) -> None:
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
    """Give 1 for each bracket that opens outside of strings, -1 for each that closes."""
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


def _decode_utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise errors.invalid_utf8(error.start + 1) from error


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        message = "a number is too large"
        raise _NotJsonError(message)
    return number


def _no_constant(text: str) -> float:
    message = f"{text} is not a number of JSON"
    raise _NotJsonError(message)
