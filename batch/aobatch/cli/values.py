"""What the values of options may be, and how they are read."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.shell_completion import CompletionItem

from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.formats.remote import Location

T = TypeVar("T")


class Kind(click.ParamType[T]):
    """Values that a function reads; `wrong` says what is none, TOML has them as `toml`."""

    def __init__(
        self,
        name: str,
        read: Callable[[object], T],
        wrong: str = "",
        toml: tuple[type, ...] = (str,),
    ) -> None:
        self.name, self._read, self._wrong, self.toml = name, read, wrong, toml

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Read a value of the command line, a variable or a settings file."""
        try:
            return self._read(value)
        except ValueError:
            self.fail(self._wrong.format(value), param, ctx)


_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _size(value: object) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
    if match is None or float(match[1]) == 0:
        raise ValueError
    return int(float(match[1]) * _UNITS[match[2].upper()])


MAX_SECONDS = 10 * 365 * 86_400
"""Longer times are taken for a slip; the system's timers hold this one."""


def _seconds(value: object) -> float:
    pattern = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?"
    match = re.fullmatch(pattern, str(value).strip().lower())
    parts = match.groups(default="0") if match else ()
    scale = (86_400, 3_600, 60, 1)
    seconds = sum(float(part) * size for part, size in zip(parts, scale, strict=False))
    if not 0 < seconds <= MAX_SECONDS:
        raise ValueError
    return seconds


def _location(value: object) -> "Location":
    from aobatch.formats.remote import parse_location

    if value == "":
        raise ValueError
    return parse_location(str(value))


def _pair(value: object) -> tuple[str, str]:
    name, _, text = str(value).partition("=")
    if not name or not text:
        raise ValueError
    return name, text


def _names(value: object) -> tuple[str, ...]:
    given = value.split(",") if isinstance(value, str) else value
    names = tuple(name for name in given if name) if isinstance(given, list | tuple) else ()
    if not names:
        raise ValueError
    return names


def _field(value: object) -> tuple[str, object]:
    if isinstance(value, tuple):  # from a settings file
        name, given = value
        return name, read_value(given, str) if isinstance(given, str) else given
    name, equals, text = str(value).partition("=")
    if not name or not equals:
        raise ValueError
    return name, read_value(text, read_json)


def read_value(text: str, read: Callable[[str], object]) -> object:
    """Read a value, or for @FILE what the file holds, as JSON or else as text; @@ is one @.

    UsageError if the file cannot be read.
    """
    if not text.startswith("@") or text == "@":
        return read(text)
    return read(text[1:]) if text.startswith("@@") else read_file(Path(text[1:]))


def read_file(path: Path) -> object:
    """Read a file of JSON, or of a text without the end of its last line; UsageError if neither."""
    try:
        return read_json(path.read_text(encoding="utf-8").removesuffix("\n"))
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}; @FILE stands for what a file holds"
        raise UsageError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path} is not UTF-8: byte {error.start + 1} cannot be decoded"
        raise UsageError(message) from error


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


def _chat_format(value: object) -> str:
    from aobatch.models.chat import FORMATS
    from aobatch.text import nearest

    name = str(value)
    if name not in FORMATS:
        meant = nearest(name, tuple(FORMATS))
        hint = f" Did you mean '{meant}'?" if meant else ""
        message = f"{name!r} is no chat format.{hint} Known are {', '.join(sorted(FORMATS))}."
        raise click.BadParameter(message)
    return name


def chat_formats(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the names of chat formats that begin so."""
    from aobatch.models.chat import FORMATS

    return [CompletionItem(name) for name in sorted(FORMATS) if name.startswith(incomplete)]


AT_LEAST_1 = click.IntRange(min=1)
ANY_PATH = click.Path(readable=False, path_type=Path)
"""The name of a file; whether it can be used is the job's to say, by an exit code of its own."""
LOCATION = Kind("file", _location, "the name is empty; a variable may be unset")
"""A path or a URI; no name at all, as of an unset variable, is no folder."""
SIZE = Kind("size", _size, "{!r} is not a size such as 4GiB or 512M", (int, str))
"""Bytes, units being powers of 1024."""
DURATION = Kind(
    "duration", _seconds, "{!r} is not a duration such as 90s, 30m or 1h30m", (int, float, str)
)
"""Seconds, as a plain number too."""
ALLOWANCE = Kind("allowance", str, toml=(int, str))
CHAT_FORMAT = Kind("format", _chat_format)
NAMES = Kind("names", _names, "{!r} names no column", (str, list))
"""Names with commas between them."""
COLUMN = Kind("field=name", _pair, "{!r} is not FIELD=NAME, such as prompt=text")
FIELD = Kind("name=value", _field, "{!r} is not NAME=VALUE, such as temperature=0.2", (dict,))
"""A field of bodies and its value, JSON or text, perhaps out of a file."""
