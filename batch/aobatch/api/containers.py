"""What a value of several parts may be: stops, token ids, biases, stream options."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aobatch.api import errors
from aobatch.api.kinds import Boolean, Integer, Number, Text

MAX_TOKEN_ID = 9_999_999
"""The largest id that seven digits can name; whether the vocabulary has it, the engine checks."""

_TOKEN_ID = Integer(0, MAX_TOKEN_ID)
# int() would also take "1_0", " 7 " and the digits of other scripts.
_TOKEN_ID_KEY = re.compile(r"[0-9]{1,7}")


@dataclass(frozen=True, slots=True)
class Texts:
    """A string or an array of strings, kept as a tuple."""

    item: Text
    maximum_length: int

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """Give the strings; RequestError if there are none, too many, or one is wrong."""
        if type(value) is str:
            return (self.item.check(name, value),)
        if type(value) is not list:
            raise errors.invalid_type(value, "a string or an array of strings", name)
        check_length(name, value, 1, self.maximum_length)
        return tuple(self.item.check(f"{name}[{i}]", item) for i, item in enumerate(value))

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return f"{self.item.describe()}, or array of 1..{self.maximum_length} of them"


@dataclass(frozen=True, slots=True)
class TokenIdList:
    """An array of token ids, kept as a tuple."""

    minimum_length: int = 0
    maximum_length: int | None = None

    def check(self, name: str, value: object) -> tuple[int, ...]:
        """Give the ids; RequestError if it is no array, of a wrong length, or an id is wrong."""
        if type(value) is not list:
            raise errors.invalid_type(value, "an array of token ids", name)
        check_length(name, value, self.minimum_length, self.maximum_length)
        # A prompt may have thousands of ids: the usual case needs no Python step for each.
        if not value or (set(map(type, value)) == {int} and _in_range(value)):
            return tuple(value)
        return tuple(_TOKEN_ID.check(f"{name}[{i}]", item) for i, item in enumerate(value))

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return f"array of {self.minimum_length}..{self.maximum_length} token ids"


@dataclass(frozen=True, slots=True)
class LogitBias:
    """An object from token ids to biases, kept as pairs in the order of the ids."""

    bias: Number
    maximum_length: int

    def check(self, name: str, value: object) -> tuple[tuple[int, float], ...]:
        """Give the pairs; RequestError if a key is no token id, given twice, or a bias is wrong."""
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object", name)
        check_length(name, value, 0, self.maximum_length)
        biases: dict[int, float] = {}
        for key, bias in value.items():
            token_id = _token_id_of(name, key)
            if token_id in biases:
                reason = f"token id {token_id} stands in it twice."
                raise errors.invalid_value(reason, name)
            biases[token_id] = self.bias.check(f"{name}.{key}", bias)
        return tuple(sorted(biases.items()))

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return f'object {{"token id": {self.bias.describe()}}}, at most {self.maximum_length} ids'


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """An object whose only field is include_usage, kept as that boolean."""

    ignores_unknown: bool = False

    def check(self, name: str, value: object) -> bool:
        """Give include_usage; RequestError if it is no object, or a field is wrong or unknown."""
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object", name)
        for key in value:
            if key != "include_usage" and not self.ignores_unknown:
                unknown = f"{name}.{key}"
                raise errors.unknown_parameter(unknown, [f"{name}.include_usage"])
        include_usage = value.get("include_usage")
        return include_usage is not None and Boolean().check(f"{name}.include_usage", include_usage)

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return 'object {"include_usage": boolean}'


def check_length(
    name: str, values: list[object] | dict[str, object], minimum: int, maximum: int | None
) -> None:
    """Check how many elements there are; RequestError if too few or too many."""
    if len(values) < minimum:
        raise errors.empty_array(name)
    if maximum is not None and len(values) > maximum:
        raise errors.array_too_long(len(values), maximum, name)


def _in_range(token_ids: Iterable[int]) -> bool:
    return min(token_ids) >= 0 and max(token_ids) <= MAX_TOKEN_ID


def _token_id_of(name: str, key: str) -> int:
    if _TOKEN_ID_KEY.fullmatch(key) is None:
        reason = f"'{errors.shorten(key)}' is no token id of 1 to 7 digits."
        raise errors.invalid_value(reason, name)
    return int(key)
