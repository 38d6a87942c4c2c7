"""What the values of options may be, and how they are read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from aobatch.formats.remote import Location

T = TypeVar("T")


class Kind(click.ParamType[T]):
    """Values that a function reads, whose ValueError is one sentence; TOML has them as `toml`."""

    def __init__(
        self, name: str, read: Callable[[object], T], toml: tuple[type, ...] = (str,)
    ) -> None:
        self.name, self._read, self.toml = name, read, toml

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Read a value of the command line, a variable or a settings file."""
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
MAX_SECONDS = 10 * 365 * 86_400
"""Longer times are taken for a slip; the system's timers hold this one."""


def read_size(value: object) -> int:
    """Read a number of bytes such as 4GiB, 512M or 1000000; units are powers of 1024."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        message = f"{value!r} is not a size such as 4GiB or 512M"
        raise ValueError(message)
    return int(float(match[1]) * _UNITS[match[2].upper()])


def read_duration(value: object) -> float:
    """Read seconds from a time such as 90s, 30m, 2h or 1h30m; a plain number is seconds."""
    pattern = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?"
    match = re.fullmatch(pattern, str(value).strip().lower())
    parts = match.groups(default="0") if match else ()
    scale = (86_400, 3_600, 60, 1)
    seconds = sum(float(part) * size for part, size in zip(parts, scale, strict=False))
    if not 0 < seconds <= MAX_SECONDS:
        message = f"{value!r} is not a duration such as 90s, 30m or 1h30m"
        raise ValueError(message)
    return seconds


def read_location(value: object) -> "Location":
    """Tell paths and URIs apart; no name at all, as of an unset variable, is no folder."""
    from aobatch.formats.remote import parse_location

    if value == "":
        message = "the name is empty; a variable may be unset"
        raise ValueError(message)
    return parse_location(str(value))


def read_column(value: object) -> tuple[str, str]:
    """Split a field of requests and the name of its column, such as prompt=text."""
    name, _, column = str(value).partition("=")
    if not name or not column:
        message = f"{value!r} is not FIELD=NAME, such as prompt=text"
        raise ValueError(message)
    return name, column


def read_field(value: object) -> tuple[str, object]:
    """Read a body field and its value, such as temperature=0.2 or user=ada."""
    if isinstance(value, tuple):  # from a settings file
        return value
    name, equals, text = str(value).partition("=")
    if not equals or not name:
        message = f"{value!r} is not NAME=VALUE, such as temperature=0.2"
        raise ValueError(message)
    return name, read_json(text)


def read_json(text: str) -> object:
    """Read JSON; what is no JSON is text, so that plain words need no quotes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def model_names(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the names and aliases of the models that begin so."""
    from aobatch.models.store.catalogue import list_models

    offered = []
    for row in list_models():
        state = "ready" if row.is_ready else "not pulled"
        names = [(row.name, state), *((alias, f"is {row.name}") for alias in row.aliases)]
        offered += [CompletionItem(name, help=text) for name, text in names]
    return [item for item in offered if item.value.startswith(incomplete)]


AT_LEAST_1 = click.IntRange(min=1)
ANY_PATH = click.Path(readable=False, path_type=Path)
"""The name of a file; whether it can be used is the job's to say, by an exit code of its own."""
ALLOWANCE = Kind("allowance", str, toml=(int, str))
SIZE = Kind("size", read_size, toml=(int, str))
DURATION = Kind("duration", read_duration, toml=(int, float, str))
LOCATION = Kind("file", read_location)
COLUMN = Kind("field=name", read_column)
FIELD = Kind("name=value", read_field, toml=(dict,))
