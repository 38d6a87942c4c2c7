"""Lines that are plainly right, decoded in a tenth of the time that proving others wrong takes."""

import msgspec

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
