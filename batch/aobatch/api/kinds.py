"""What a single value of a request may be: the kinds that the table of parameters is made of."""

from dataclasses import dataclass
from typing import Protocol

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
