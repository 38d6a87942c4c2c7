"""The two styles of a line: a bare body with an optional custom_id, or a batch envelope."""

import msgspec

from aobatch.api import errors, faults
from aobatch.api.json_line import Decoded, is_unicode
from aobatch.api.kinds import Text
from aobatch.errors import RequestError

ENDPOINT = "/v1/completions"

CUSTOM_ID = Text(1, 512)

ENVELOPE_FIELDS = ("custom_id", "method", "url", "body")
"""Any of the last three makes a line an envelope, and then all four must be there."""


class Identity(msgspec.Struct, frozen=True, gc=False):
    """What an output line repeats of its input line."""

    custom_id: str | None = None
    is_envelope: bool = False


def identify(decoded: Decoded) -> Identity:
    """Read the identity of a line that may be wrong; a custom_id that is not right is None."""
    fields = decoded.fields
    is_envelope = "body" in fields or "method" in fields or "url" in fields
    return Identity(_readable_custom_id(decoded), is_envelope)


def open_line(
    fields: dict[str, object], identity: Identity, *, ignores_unknown: bool
) -> dict[str, object]:
    """Give the fields of the body; RequestError if the custom_id or the envelope is wrong.

    Checked in this order: custom_id, unknown fields, missing fields, method, url, body.
    """
    custom_id = fields.get("custom_id")
    if custom_id is not None or (identity.is_envelope and "custom_id" in fields):
        CUSTOM_ID.check("custom_id", custom_id)
    if identity.is_envelope:
        return _open_envelope(fields, ignores_unknown=ignores_unknown)
    if "custom_id" not in fields:
        return fields
    body = fields.copy()
    del body["custom_id"]
    return body


def _readable_custom_id(decoded: Decoded) -> str | None:
    custom_id = decoded.fields.get("custom_id")
    if custom_id is None or "custom_id" in decoded.repeated_keys:
        return None
    try:
        readable = CUSTOM_ID.check("custom_id", custom_id)
    except RequestError:
        return None
    return None if decoded.has_lone_surrogate and not is_unicode(readable) else readable


def _open_envelope(fields: dict[str, object], *, ignores_unknown: bool) -> dict[str, object]:
    for name in fields:
        if name not in ENVELOPE_FIELDS and not ignores_unknown:
            raise errors.unknown_parameter(name, ENVELOPE_FIELDS)
    for name in ENVELOPE_FIELDS:
        if name not in fields:
            raise errors.missing_parameter(name)
    method = Text().check("method", fields["method"])
    url = Text().check("url", fields["url"])
    body = fields["body"]
    if method != "POST":
        reason = f"expected 'POST', but got '{errors.shorten(method)}' instead."
        raise errors.invalid_value(reason, "method")
    if url != ENDPOINT:
        raise faults.invalid_url(url, ENDPOINT)
    if type(body) is not dict:
        raise errors.invalid_type(body, "an object", "body")
    return body
