"""From a decoded JSON object to a checked body with the job's defaults."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from msgspec import UNSET
from msgspec.structs import replace

from aobatch.api import errors
from aobatch.api.body import PARAMETERS, SHAPES, CompletionBody
from aobatch.api.chat import (
    CHAT_PARAMETERS,
    COMPLETIONS_ONLY,
    chat_values,
    check_chat_names,
    open_ended,
)
from aobatch.api.json_line import is_unicode
from aobatch.api.kinds import Integer, Kind, Prompts, StreamOptions, check_range
from aobatch.api.shapes import ResponseFormat, StructuredOutputs
from aobatch.errors import RequestError

IGNORED = frozenset({"metadata", "service_tier", "store"})
"""Parameters of the OpenAI API that are accepted and change nothing."""

_KNOWN = PARAMETERS.keys() | IGNORED

NAMES = (*PARAMETERS, "custom_id")
"""What a bare line may say."""

MAX_BEST_OF = 20
"""More candidates than this need an n as large."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds that a job may move."""

    max_logprobs: int = 20
    """The largest logprobs."""
    max_prompts: int = 2048
    """How many prompts one request may have."""


class BodyValidator:
    """Checks bodies against the table of parameters, the job's limits and its defaults.

    The first error is reported: an unknown name, a missing prompt, a wrong value, each in the order
    of the line, and last what does not go together.
    """

    def __init__(
        self,
        defaults: Mapping[str, object],
        limits: Limits,
        *,
        ignores_unknown: bool,
        overrides: Mapping[str, object] = MappingProxyType({}),
    ) -> None:
        """Check defaults and overrides too; RequestError if one is wrong or unknown."""
        moved: dict[str, Kind] = {
            "logprobs": Integer(0, limits.max_logprobs),
            "prompt": Prompts(limits.max_prompts),
            "stream_options": StreamOptions(ignores_unknown),
            "response_format": ResponseFormat(ignores_unknown),
            "structured_outputs": StructuredOutputs(ignores_unknown),
        }
        self._kinds = {p.name: (p.field, moved.get(p.name, p.kind)) for p in PARAMETERS.values()}
        self._chat_kinds = {
            p.name: self._kinds[p.name] if PARAMETERS.get(p.name) is p else (p.field, p.kind)
            for p in CHAT_PARAMETERS.values()
        }
        self._chat_kinds["top_logprobs"] = "top_logprobs", Integer(0, limits.max_logprobs)
        self._ignores_unknown = ignores_unknown
        self._defaults: dict[str, Any] = {}
        if not is_unicode(dict(defaults)):
            raise errors.invalid_unicode()
        _check_names(defaults)
        values, given = self._checked(defaults, self._kinds)
        _assemble({"prompts": ("",)} | values, given)
        self._defaults = values
        _check_names(overrides)
        overriding, _ = self._checked(overrides, self._kinds)
        self._overrides = dict(overrides)
        self._chat_defaults, self._chat_overrides = _of_chats(values), _of_chats(overriding)

    def validate(self, fields: Mapping[str, object]) -> CompletionBody:
        """Check a body; RequestError names the first thing that is wrong."""
        if self._overrides:
            fields = _overridden(fields, self._overrides)
        if not self._ignores_unknown:
            _check_names(fields)
        required = "prompt"
        if required not in fields and "prompts" not in self._defaults:
            raise errors.missing_parameter(required)
        values, given = self._checked(fields, self._kinds)
        return _assemble(self._defaults | values, given)

    def validate_chat(self, fields: Mapping[str, object]) -> CompletionBody:
        """Check the body of a chat, of which a body is made whose one prompt is a conversation."""
        if not self._ignores_unknown:
            check_chat_names(fields, IGNORED)
        required = "messages"
        if fields.get(required) is None:
            raise errors.missing_parameter(required)
        values, given = self._checked(fields, self._chat_kinds)
        values = self._chat_defaults | chat_values(values) | self._chat_overrides
        return _assemble(open_ended(values), given)

    def told(self, fields: Mapping[str, object]) -> tuple[str, str | None]:
        """Read what a wrong body still says of its model, "" if nothing, and of its user."""
        return self._read("model", fields) or "", self._read("user", fields)

    def _read(self, name: str, fields: Mapping[str, object]) -> str | None:
        field, kind = self._kinds[name]
        value = self._overrides.get(name, fields.get(name))
        try:
            read = self._defaults.get(field) if value is None else kind(name, value)
        except RequestError:
            return None
        return read if isinstance(read, str) and is_unicode(read) else None

    def _checked(
        self, fields: Mapping[str, object], kinds: Mapping[str, tuple[str, Kind]]
    ) -> tuple[dict[str, Any], set[str]]:
        values: dict[str, Any] = {}
        given = set()
        for name, value in fields.items():
            # Null says as little as leaving it out, except that a null prompt is a prompt.
            if name in kinds and (value is not None or name == "prompt"):
                field, kind = kinds[name]
                found = kind(name, value)
                if field != "shape" or not values.get(field):
                    values[field] = found
                elif found:
                    reason = "the request has another one of the parameters that shape an answer."
                    raise errors.invalid_value(reason, name)
                given.add(name)
        return values, given


def _of_chats(values: Mapping[str, Any]) -> dict[str, Any]:
    """Leave those defaults of a job that mean something for chats."""
    others = {PARAMETERS[name].field for name in COMPLETIONS_ONLY}
    return {field: value for field, value in values.items() if field not in others}


def _overridden(
    fields: Mapping[str, object], overrides: Mapping[str, object]
) -> Mapping[str, object]:
    """Let overrides replace fields, and a shape any other one."""
    if not overrides.keys().isdisjoint(SHAPES):
        fields = {name: value for name, value in fields.items() if name not in SHAPES}
    return {**fields, **overrides}


def _check_names(fields: Mapping[str, object]) -> None:
    if not fields.keys() <= _KNOWN:
        name = next(name for name in fields if name not in _KNOWN)
        raise errors.unknown_parameter(name, NAMES)


def _assemble(values: dict[str, Any], given: Collection[str]) -> CompletionBody:
    """Fill in the defaults; RequestError if what is given does not go together."""
    body = CompletionBody(**{"best_of": values.get("n", 1)} | values)
    best_of = body.n, max(MAX_BEST_OF, body.n)
    check_range("best_of", body.best_of, best_of, "integer")
    if body.stream and body.best_of > body.n:
        # Candidates are ranked only when all are complete.
        reason = "results cannot be streamed when 'best_of' is greater than 'n'."
        raise errors.invalid_value(reason, "stream")
    if "stream_options" in given and not body.stream:
        reason = "it is only allowed when 'stream' is true."
        raise errors.invalid_value(reason, "stream_options")
    check_range("min_tokens", body.min_tokens, (0, body.max_tokens), "integer")
    if "best_of" in values and 1 < body.best_of == body.n and not body.stream:
        # Asked for in words, it ranks; a stream has sent its choices by then.
        body = replace(body, ranks_all=True)
    if body.shape is not UNSET:
        for name in ("suffix", "min_tokens", "ignore_eos"):
            if getattr(body, name):
                reason = "it does not go together with a shape of the answer."
                raise errors.invalid_value(reason, name)
    return body
