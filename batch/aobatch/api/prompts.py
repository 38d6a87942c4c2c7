"""What `prompt` may be: a text, token ids, an array of either, or null."""

from dataclasses import dataclass
from typing import TypeAlias

from aobatch.api import errors
from aobatch.api.containers import TokenIdList, check_length
from aobatch.api.kinds import Text

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
