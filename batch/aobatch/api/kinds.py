"""What a single value of a request may be: the kinds that the table of parameters is made of."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from aobatch.api import errors


class Kind(Protocol):
    """One sort of value with its bounds."""

    def check(self, name: str, value: object) -> object:
        """Give the value as the body keeps it; RequestError names what is wrong with it."""
        ...

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        ...


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number; neither true nor 1.0 is one."""

    minimum: int
    maximum: int | None = None

    def check(self, name: str, value: object) -> int:
        """Give the integer; RequestError if it is of another type or out of bounds."""
        if type(value) is not int:
            raise errors.invalid_type(value, "an integer", name)
        if value < self.minimum:
            raise errors.below_minimum(value, self.minimum, "integer", name)
        if self.maximum is not None and value > self.maximum:
            raise errors.above_maximum(value, self.maximum, "integer", name)
        return value

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        bounds = f">= {self.minimum}" if self.maximum is None else f"{self.minimum}..{self.maximum}"
        return f"integer, {bounds}"


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal or whole number within bounds."""

    minimum: float
    maximum: float

    def check(self, name: str, value: object) -> float:
        """Give the number as a float; RequestError if it is of another type or out of bounds."""
        if type(value) is not float and type(value) is not int:
            raise errors.invalid_type(value, "a decimal", name)
        # A default of the job may be NaN, which is neither above nor below.
        if not value >= self.minimum:
            raise errors.below_minimum(value, self.minimum, "decimal", name)
        if value > self.maximum:
            raise errors.above_maximum(value, self.maximum, "decimal", name)
        # Adding zero turns -0.0 into 0.0, so that equal requests have equal bytes.
        return value + 0.0

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return f"number, {self.minimum}..{self.maximum}"


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false, not 0, 1 or a string."""

    def check(self, name: str, value: object) -> bool:
        """Give the boolean; RequestError if it is of another type."""
        if type(value) is not bool:
            raise errors.invalid_type(value, "a boolean", name)
        return value

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return "boolean"


@dataclass(frozen=True, slots=True)
class Text:
    """A string; the length counts characters, not bytes."""

    minimum_length: int = 0
    maximum_length: int | None = None

    def check(self, name: str, value: object) -> str:
        """Give the string; RequestError if it is of another type, empty or too long."""
        if type(value) is not str:
            raise errors.invalid_type(value, "a string", name)
        if len(value) < self.minimum_length:
            raise errors.empty_string(name)
        if self.maximum_length is not None and len(value) > self.maximum_length:
            raise errors.string_too_long(len(value), self.maximum_length, name)
        return value

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        if self.maximum_length is None:
            return "string"
        return f"string, {self.minimum_length}..{self.maximum_length} characters"


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


Prompt: TypeAlias = str | tuple[int, ...]
"""One prompt: its text, or its token ids."""

_TEXT = Text()
_TOKEN_IDS = TokenIdList(minimum_length=1)


@dataclass(frozen=True, slots=True)
class Prompts:
    """A string, [string], [int], [[int]] or null, kept as a tuple of prompts."""

    maximum_length: int

    def check(self, name: str, value: object) -> tuple[Prompt, ...]:
        """Give the prompts, null as the empty text; RequestError if one is wrong or all differ."""
        if value is None:
            return ("",)
        if type(value) is str:
            return (value,)
        if type(value) is not list:
            raise errors.invalid_type(value, "a string or an array", name)
        check_length(name, value, 1, None)
        return self._check_array(name, value)

    def _check_array(self, name: str, values: list[object]) -> tuple[Prompt, ...]:
        # The first element decides what the array is, and the others must agree.
        if type(values[0]) is str:
            check_length(name, values, 1, self.maximum_length)
            return tuple(_TEXT.check(f"{name}[{i}]", value) for i, value in enumerate(values))
        if type(values[0]) is list:
            check_length(name, values, 1, self.maximum_length)
            return tuple(_TOKEN_IDS.check(f"{name}[{i}]", value) for i, value in enumerate(values))
        if type(values[0]) is int:
            return (_TOKEN_IDS.check(name, values),)
        expected = "a string, a token id or an array of token ids"
        raise errors.invalid_type(values[0], expected, f"{name}[0]")

    def describe(self) -> str:
        """Say what is accepted, for the documentation."""
        return f"string, [string], [int], [[int]] or null, at most {self.maximum_length} prompts"
