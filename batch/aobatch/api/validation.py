"""From a decoded JSON object to a checked body with the job's defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import msgspec

from aobatch.api import errors
from aobatch.api.body import PARAMETERS, RULES, CompletionBody, Parameter
from aobatch.api.json_line import is_unicode
from aobatch.api.kinds import Integer, Kind, Prompts, StreamOptions

IGNORED = frozenset({"metadata", "service_tier", "store"})
"""Parameters of the OpenAI API that are accepted and change nothing."""


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
        self._parameters = _limited(limits, ignores_unknown=ignores_unknown)
        self._required = [p for p in self._parameters.values() if p.default is msgspec.NODEFAULT]
        self._checks = {p.name: (p.field, p.kind.check) for p in self._parameters.values()}
        self._known = self._parameters.keys() | IGNORED
        self._ignores_unknown = ignores_unknown
        self._defaults: dict[str, Any] = {}
        if not is_unicode(dict(defaults)):
            raise errors.invalid_unicode()
        self._check_names(defaults)
        values, given = self._checked(defaults)
        _assemble({"prompts": ("",)} | values, given)
        self._defaults = values
        self._check_names(overrides)
        self._checked(overrides)
        self._overrides = dict(overrides)

    def validate(self, fields: Mapping[str, object]) -> CompletionBody:
        """Give the checked body; RequestError names the first thing that is wrong."""
        if self._overrides:
            fields = {**fields, **self._overrides}
        if not self._ignores_unknown:
            self._check_names(fields)
        for parameter in self._required:
            if parameter.name not in fields and parameter.field not in self._defaults:
                raise errors.missing_parameter(parameter.name)
        values, given = self._checked(fields)
        return _assemble(self._defaults | values, given)

    def _check_names(self, fields: Mapping[str, object]) -> None:
        if not fields.keys() <= self._known:
            name = next(name for name in fields if name not in self._known)
            raise errors.unknown_parameter(name, self._parameters)

    def _checked(self, fields: Mapping[str, object]) -> tuple[dict[str, Any], set[str]]:
        values = {}
        given = set()
        checks = self._checks
        for name, value in fields.items():
            # Null says as little as leaving it out, except that a null prompt is a prompt.
            if name in checks and (value is not None or name == "prompt"):
                field, check = checks[name]
                values[field] = check(name, value)
                given.add(name)
        return values, given


def _assemble(values: dict[str, Any], given: set[str]) -> CompletionBody:
    if "best_of" not in values:
        values["best_of"] = values.get("n", 1)
    body = CompletionBody(**values)
    for rule in RULES:
        rule(body, given)
    return body


def _limited(limits: Limits, *, ignores_unknown: bool) -> dict[str, Parameter]:
    kinds: dict[str, Kind] = {
        "logprobs": Integer(0, limits.max_logprobs),
        "prompt": Prompts(limits.max_prompts),
        "stream_options": StreamOptions(ignores_unknown),
    }
    return {
        name: replace(parameter, kind=kinds.get(name, parameter.kind))
        for name, parameter in PARAMETERS.items()
    }
