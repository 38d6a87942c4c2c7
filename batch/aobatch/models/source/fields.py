"""Fields of a model file's description, each read as what it has to be."""

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from copy import copy
from math import isfinite
from typing import Any, NoReturn

from aobatch.errors import ModelError
from aobatch.models.checks import shown

_TEXT = 256


class Fields:
    """Reads values that nobody vouches for.

    Every method raises ModelError, naming the file and the field, if the field is missing and has
    no default, or is not what was asked for.
    """

    def __init__(self, values: Mapping[str, object], source: str) -> None:
        self._values = values
        self._asked: set[str] = set()
        self._prefix = ""
        self.source = source

    def __contains__(self, key: str) -> bool:
        return self._values.get(self._prefix + key) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def behind(self, prefix: str) -> "Fields":
        """Read the fields whose names begin alike by what comes behind that."""
        found = copy(self)
        found._prefix = prefix  # noqa: SLF001 - its own
        return found

    def replaced(self, values: Mapping[str, object]) -> "Fields":
        """Give some fields other values, by their whole names."""
        found = copy(self)
        found._values = {**self._values, **values}  # noqa: SLF001 - its own
        return found

    def is_stated(self, key: str) -> bool:
        """Say whether a field is there, be it only as null."""
        return self._prefix + key in self._values

    def get(self, key: str, default: object = None) -> object:
        """Read a field, whatever it holds."""
        self._asked.add(self._prefix + key)
        value = self._values.get(self._prefix + key)
        return default if value is None else value

    def integer(self, key: str, low: int, high: int, default: int | None = None) -> int:
        """Read an integer from low to high."""
        value = self._value(key, default)
        if type(value) is not int or not low <= value <= high:
            self._refuse(key, _integer(low, high), value)
        return value

    def number(self, key: str, low: float, high: float, default: float | None = None) -> float:
        """Read a finite number from low to high."""
        value = self._value(key, default)
        if type(value) not in (int, float) or not low <= value <= high:
            self._refuse(key, f"a number from {low:g} to {high:g}", value)
        return float(value)

    def flag(self, key: str, default: bool | None = None) -> bool:
        """Read a truth value."""
        value = self._value(key, default)
        if not isinstance(value, bool):
            self._refuse(key, "true or false", value)
        return value

    def text(self, key: str, default: str | None = None) -> str:
        """Read a short text of one line that is safe to show."""
        value = self._value(key, default)
        if not isinstance(value, str) or len(value) > _TEXT or not value.isprintable():
            self._refuse(key, f"a printable text of at most {_TEXT} characters", value)
        return value

    def texts(self, key: str) -> Iterator[str]:
        """Read the texts of an array one by one, however long."""
        return self._each(key, "a text", lambda item: isinstance(item, str))

    def integers(self, key: str, low: int, high: int) -> Iterator[int]:
        """Read the integers of an array one by one, each from low to high."""
        wanted = _integer(low, high)
        return self._each(key, wanted, lambda item: type(item) is int and low <= item <= high)

    def flags(self, key: str) -> Iterator[bool]:
        """Read the truth values of an array one by one."""
        found = self._each(key, "true or false", lambda item: item in (True, False))
        return map(bool, found)

    def numbers(self, key: str) -> Iterator[float]:
        """Read the finite numbers of an array one by one."""
        return self._each(
            key, "a finite number", lambda item: type(item) in (int, float) and isfinite(item)
        )

    def section(self, key: str) -> "Fields":
        """Read the fields of an object."""
        value = self._value(key, None)
        if not isinstance(value, Mapping):
            self._refuse(key, "an object", value)
        return Fields(value, f"{self.source}: {key!r}")

    def with_defaults(self, defaults: Mapping[str, object]) -> "Fields":
        """Give the same fields, and others where these do not state them."""
        return self.replaced({key: x for key, x in defaults.items() if not self.is_stated(key)})

    def require(self, key: str, value: object, advice: str = "") -> None:
        """Refuse a field that is there and has another value."""
        if self.get(key, value) != value:
            name, found = self._prefix + key, shown(self.get(key))
            self.refuse(f"{name!r} is supported only as {value!r}, and is {found}{advice}")

    def unread(self, prefix: str = "") -> Iterator[tuple[str, object]]:
        """Yield the fields of that prefix that say something and that nobody asked for."""
        for key, value in self._values.items():
            if key.startswith(prefix) and key not in self._asked and value:
                yield key, value

    def check_all_read(self, prefix: str = "", ignored: Container[str] = ()) -> None:
        """Raise ModelError if a field of that prefix says something and nobody asked for it.

        What nobody knows may change what a model computes.
        """
        for key, value in self.unread(prefix):
            if key not in ignored:
                self.refuse(
                    f"{shown(key)} is {shown(value)}, which is not known here and may change what "
                    "the model computes; take it out of the description if it does not"
                )

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says what is wrong with this file."""
        message = f"{self.source}: {reason}"
        raise ModelError(message)

    def _value(self, key: str, default: object) -> Any:  # noqa: ANN401 - whatever a file holds
        value = self.get(key, default)
        if value is None:
            self.refuse(f"{self._prefix + key!r} is missing; the file is incomplete")
        return value

    def _each(self, key: str, wanted: str, is_wanted: Callable[[Any], bool]) -> Iterator[Any]:
        items = self._value(key, None)
        if not isinstance(items, Iterable) or isinstance(items, str | Mapping):
            self._refuse(key, "an array", items)
        for index, item in enumerate(items):
            if not is_wanted(item):
                self._refuse(f"{key}[{index}]", wanted, item)
            yield item

    def _refuse(self, key: str, wanted: str, value: object) -> NoReturn:
        self.refuse(f"{self._prefix + key!r} has to be {wanted}, and is {shown(value)}")


def _integer(low: int, high: int) -> str:
    return str(low) if low == high else f"an integer from {low} to {high}"
