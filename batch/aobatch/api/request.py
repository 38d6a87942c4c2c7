"""Requests: one line of a job's input becomes a checked request or says why it cannot."""

from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from aobatch.api import faults
from aobatch.api.body import CompletionBody
from aobatch.api.envelope import Identity, identify, open_line
from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.json_line import Decoded, LineDecoder
from aobatch.api.keys import KeyMaker
from aobatch.api.validation import BodyValidator, Limits
from aobatch.errors import RequestError

__all__ = ["CompletionBody", "FailedLine", "Limits", "Parser", "Request"]


class Request(msgspec.Struct, frozen=True, gc=False):
    """A checked request."""

    line: int
    """Counted from 1."""
    custom_id: str | None
    is_envelope: bool
    """Whether the output line is a batch envelope too."""
    body: CompletionBody
    key: str
    """32 hexadecimal digits that name the request within its job, wherever it stands."""


class FailedLine(msgspec.Struct, frozen=True, gc=False):
    """A line that has an error instead of a completion."""

    line: int
    custom_id: str | None
    """None also if it could not be read."""
    is_envelope: bool
    error: ErrorObject
    status_code: int


class Parser:
    """Parses the lines of one job in their order; it remembers what the job had so far.

    The first error of a line is reported, in this order: UTF-8, depth, JSON, repeated keys, half
    surrogate pairs, custom_id, envelope, then what BodyValidator checks.
    """

    def __init__(
        self,
        defaults: Mapping[str, object],
        limits: Limits,
        ignore_unknown: bool = False,
        overrides: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Keep what lines may leave out, and what replaces theirs; RequestError if it is wrong."""
        self._ignores_unknown = ignore_unknown
        self._decoder = LineDecoder()
        self._validator = BodyValidator(
            defaults, limits, ignores_unknown=ignore_unknown, overrides=overrides
        )
        self._keys = KeyMaker()

    def parse(self, line: int, raw: bytes) -> Request | FailedLine:
        """Give the request of a line, or its first error; never raises for what the line holds."""
        try:
            decoded = self._decoder.decode(raw)
        except RequestError as error:
            return fail(line, Identity(), error)
        return self._open(line, decoded, None)

    def parse_fields(
        self, line: int, fields: dict[str, object], error: RequestError | None = None
    ) -> Request | FailedLine:
        """Do the same for a line that is decoded already, with what was wrong about it, if any."""
        return self._open(line, Decoded(fields), error)

    def _open(
        self, line: int, decoded: Decoded, known: RequestError | None
    ) -> Request | FailedLine:
        identity = identify(decoded)
        custom_id = identity.custom_id
        # A line that fails uses up its custom_id too: the output has each only once.
        is_repeated = not self._keys.claim(custom_id)
        try:
            if known is not None:
                raise known
            decoded.check()
            if is_repeated and custom_id is not None:
                raise faults.duplicate_custom_id(custom_id)
            fields = open_line(decoded.fields, identity, ignores_unknown=self._ignores_unknown)
            body = self._validator.validate(fields)
        except RequestError as error:
            return fail(line, identity, error)
        key = self._keys.make_key(custom_id, body)
        return Request(line, custom_id, identity.is_envelope, body, key)


def fail(line: int, identity: Identity, error: RequestError) -> FailedLine:
    """Give the failed line of an error."""
    return FailedLine(
        line, identity.custom_id, identity.is_envelope, error_object(error), error.status_code
    )
