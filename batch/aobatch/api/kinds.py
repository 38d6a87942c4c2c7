"""What a single value of a request may be: the kinds that the table of parameters is made of.

A kind is called with a name and a value, and returns the value as a body keeps it, or raises the
RequestError that says what is wrong with it. As a string it says what it accepts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from aobatch.api import errors
from aobatch.errors import ErrorCode

Role: TypeAlias = Literal["system", "user", "assistant"]


class Message(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """A message of a conversation."""

    role: Role
    content: str


class Chat(msgspec.Struct, frozen=True, gc=False):
    """A conversation that the model answers; how it is written is the model's chat format."""

    messages: tuple[Message, ...]
    fills_context: bool = False
    """Whether the request gives no max_tokens, so that the answer may be as long as fits."""

    def __len__(self) -> int:
        """Count the characters of all contents."""
        return sum(len(message.content) for message in self.messages)


Prompt: TypeAlias = str | tuple[int, ...] | Chat
"""One prompt: its text, its token ids, or a conversation."""

MAX_TOKEN_ID = 9_999_999
"""The largest id that seven digits can name; whether the vocabulary has it, the engine checks."""

# int() would also take "1_0", " 7 " and the digits of other scripts.
_TOKEN_ID_KEY = re.compile(r"[0-9]{1,7}")


class Kind(Protocol):
    """One sort of value with its bounds."""

    def __call__(self, name: str, value: object) -> object:
        """Check a value, and return it as the body keeps it."""
        ...


_CODES: dict[str, tuple[ErrorCode, ErrorCode]] = {
    "integer": ("integer_below_min_value", "integer_above_max_value"),
    "decimal": ("decimal_below_min_value", "decimal_above_max_value"),
    "array": ("empty_array", "array_above_max_length"),
    "string": ("empty_string", "string_above_max_length"),
}
"""The codes of what is too small, and of what is too large."""


def check_range(
    name: str, value: float, bounds: tuple[float, float | None], noun: Literal["integer", "decimal"]
) -> None:
    """Raise RequestError if a number is not within bounds."""
    minimum, maximum = bounds
    # A default of the job may be NaN, which is neither above nor below.
    is_small = not value >= minimum
    if is_small or (maximum is not None and value > maximum):
        problem = f"{noun} {'below minimum' if is_small else 'above maximum'} value"
        expected = f"a value >= {minimum}" if is_small else f"a value <= {maximum}"
        got = errors.shorten(str(value))
        raise errors.out_of_bounds(name, problem, expected, got, _CODES[noun][not is_small])


def check_length(
    name: str, length: int, bounds: tuple[int, int | None], noun: Literal["an array", "a string"]
) -> None:
    """Raise RequestError if an array or a string is too short or too long."""
    minimum, maximum = bounds
    is_short = length < minimum
    if is_short or (maximum is not None and length > maximum):
        sort = noun.split()[1]
        problem = f"empty {sort}" if is_short else f"{sort} too long"
        expected = f"{noun} with {'minimum length 1' if is_short else f'maximum length {maximum}'}"
        got = f"an empty {sort}" if is_short else f"{noun} with length {length}"
        raise errors.out_of_bounds(name, problem, expected, got, _CODES[sort][not is_short])


@dataclass(frozen=True, slots=True)
class Integer:
    """A whole number; neither true nor 1.0 is one."""

    minimum: int
    maximum: int | None = None

    def __call__(self, name: str, value: object) -> int:
        """Check the type and the bounds."""
        if type(value) is not int:
            raise errors.invalid_type(value, "an integer", name)
        check_range(name, value, (self.minimum, self.maximum), "integer")
        return value

    def __str__(self) -> str:
        bounds = f">= {self.minimum}" if self.maximum is None else f"{self.minimum}..{self.maximum}"
        return f"integer, {bounds}"


@dataclass(frozen=True, slots=True)
class Number:
    """A decimal or whole number within bounds, kept as a float."""

    minimum: float
    maximum: float

    def __call__(self, name: str, value: object) -> float:
        """Check the type and the bounds."""
        if type(value) is not float and type(value) is not int:
            raise errors.invalid_type(value, "a decimal", name)
        check_range(name, value, (self.minimum, self.maximum), "decimal")
        # Adding zero turns -0.0 into 0.0, so that equal requests have equal bytes.
        return value + 0.0

    def __str__(self) -> str:
        return f"number, {self.minimum}..{self.maximum}"


@dataclass(frozen=True, slots=True)
class Boolean:
    """True or false, not 0, 1 or a string."""

    def __call__(self, name: str, value: object) -> bool:
        """Check the type."""
        if type(value) is not bool:
            raise errors.invalid_type(value, "a boolean", name)
        return value

    def __str__(self) -> str:
        return "boolean"


@dataclass(frozen=True, slots=True)
class Text:
    """A string; the length counts characters, not bytes."""

    minimum_length: int = 0
    maximum_length: int | None = None

    def __call__(self, name: str, value: object) -> str:
        """Check the type and the length."""
        if type(value) is not str:
            raise errors.invalid_type(value, "a string", name)
        check_length(name, len(value), (self.minimum_length, self.maximum_length), "a string")
        return value

    def __str__(self) -> str:
        if self.maximum_length is None:
            return "string"
        return f"string, {self.minimum_length}..{self.maximum_length} characters"


@dataclass(frozen=True, slots=True)
class Texts:
    """A string or an array of strings, kept as a tuple."""

    item: Text
    maximum_length: int

    def __call__(self, name: str, value: object) -> tuple[str, ...]:
        """Check how many there are, and each."""
        if type(value) is str:
            return (self.item(name, value),)
        if type(value) is not list:
            raise errors.invalid_type(value, "a string or an array of strings", name)
        check_length(name, len(value), (1, self.maximum_length), "an array")
        return tuple(self.item(f"{name}[{i}]", item) for i, item in enumerate(value))

    def __str__(self) -> str:
        return f"{self.item}, or array of 1..{self.maximum_length} of them"


@dataclass(frozen=True, slots=True)
class TokenIdList:
    """An array of token ids, kept as a tuple."""

    minimum_length: int = 0
    maximum_length: int | None = None

    def __call__(self, name: str, value: object) -> tuple[int, ...]:
        """Check how many there are, and each."""
        if type(value) is not list:
            raise errors.invalid_type(value, "an array of token ids", name)
        check_length(name, len(value), (self.minimum_length, self.maximum_length), "an array")
        # A prompt may have thousands of ids: the usual case needs no Python step for each.
        are_integers = set(map(type, value)) <= {int}
        if not value or (are_integers and min(value) >= 0 and max(value) <= MAX_TOKEN_ID):
            return tuple(value)
        token_id = Integer(0, MAX_TOKEN_ID)
        return tuple(token_id(f"{name}[{i}]", item) for i, item in enumerate(value))

    def __str__(self) -> str:
        return f"array of {self.minimum_length}..{self.maximum_length} token ids"


@dataclass(frozen=True, slots=True)
class LogitBias:
    """An object from token ids to biases, kept as pairs in the order of the ids."""

    bias: Number
    maximum_length: int

    def __call__(self, name: str, value: object) -> tuple[tuple[int, float], ...]:
        """Check how many there are, and each."""
        if type(value) is not dict:
            raise errors.invalid_type(value, "an object", name)
        check_length(name, len(value), (0, self.maximum_length), "an array")
        biases: dict[int, float] = {}
        for key, bias in value.items():
            if _TOKEN_ID_KEY.fullmatch(key) is None:
                reason = f"'{errors.shorten(key)}' is no token id of 1 to 7 digits."
                raise errors.invalid_value(reason, name)
            if int(key) in biases:
                reason = f"token id {int(key)} stands in it twice."
                raise errors.invalid_value(reason, name)
            biases[int(key)] = self.bias(f"{name}.{key}", bias)
        return tuple(sorted(biases.items()))

    def __str__(self) -> str:
        return f'object {{"token id": {self.bias}}}, at most {self.maximum_length} ids'


def read_object(
    name: str, value: object, fields: Iterable[str], *, ignores_unknown: bool
) -> dict[str, Any]:
    """Take an object; RequestError if it is none, or has other fields than these."""
    if type(value) is not dict:
        raise errors.invalid_type(value, "an object", name)
    for key in value:
        if key not in fields and not ignores_unknown:
            unknown = f"{name}.{key}"
            raise errors.unknown_parameter(unknown, [f"{name}.{field}" for field in fields])
    return value


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """An object whose only field is include_usage, kept as that boolean."""

    ignores_unknown: bool = False

    def __call__(self, name: str, value: object) -> bool:
        """Check the one field, and that there is no other."""
        fields = ("include_usage",)
        found = read_object(name, value, fields, ignores_unknown=self.ignores_unknown)
        include_usage = found.get("include_usage")
        return include_usage is not None and Boolean()(f"{name}.include_usage", include_usage)

    def __str__(self) -> str:
        return 'object {"include_usage": boolean}'


@dataclass(frozen=True, slots=True)
class Prompts:
    """A string, [string], [int], [[int]] or null, kept as a tuple of prompts; null is ""."""

    maximum_length: int

    def __call__(self, name: str, value: object) -> tuple[Prompt, ...]:
        """Check how many there are, and each, as the first one's type asks for."""
        if value is None:
            return ("",)
        if type(value) is str:
            return (value,)
        if type(value) is not list:
            raise errors.invalid_type(value, "a string or an array", name)
        check_length(name, len(value), (1, None), "an array")
        # The first element decides what the array is, and the others must agree.
        first, token_ids = type(value[0]), TokenIdList(minimum_length=1)
        if first is int:
            return (token_ids(name, value),)
        if first is not str and first is not list:
            expected = "a string, a token id or an array of token ids"
            raise errors.invalid_type(value[0], expected, f"{name}[0]")
        check_length(name, len(value), (1, self.maximum_length), "an array")
        item = Text() if first is str else token_ids
        return tuple(item(f"{name}[{i}]", prompt) for i, prompt in enumerate(value))

    def __str__(self) -> str:
        return f"string, [string], [int], [[int]] or null, at most {self.maximum_length} prompts"
