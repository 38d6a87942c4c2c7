"""Kinds of option values that click does not know."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

if TYPE_CHECKING:
    from aobatch.formats.remote import Location

ANY_PATH = click.Path(readable=False, path_type=Path)
"""The name of a file; whether it can be used is the job's to say, by an exit code of its own."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ByteSize(click.ParamType[int]):
    """A number of bytes such as 4GiB, 512M or 1000000; units are powers of 1024."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read a size."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not a size such as 4GiB or 512M", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


MAX_SECONDS = 10 * 365 * 86_400
"""Longer times are taken for a slip; the system's timers hold this one."""


class Duration(click.ParamType[float]):
    """A time such as 90s, 30m, 2h or 1h30m; a plain number is seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a duration as seconds."""
        pattern = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?"
        match = re.fullmatch(pattern, str(value).strip().lower())
        parts = match.groups(default="0") if match else ()
        scale = (86_400, 3_600, 60, 1)
        seconds = sum(float(part) * size for part, size in zip(parts, scale, strict=False))
        if not 0 < seconds <= MAX_SECONDS:
            self.fail(f"{value!r} is not a duration such as 90s, 30m or 1h30m", param, ctx)
        return seconds


class Allowance(click.ParamType[str]):
    """A number of lines such as 12, or a percentage such as 2.5%; the job reads it."""

    name = "allowance"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Give its text; a settings file may hold a number."""
        del param, ctx
        return str(value)


class FileLocation(click.ParamType["Location"]):
    """A path or a URI."""

    name = "file"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> "Location":
        """Tell paths and URIs apart; no name at all, as of an unset variable, is no folder."""
        from aobatch.formats.remote import parse_location

        if value == "":
            self.fail("the name is empty; a variable may be unset", param, ctx)
        return parse_location(value) if isinstance(value, str) else cast("Location", value)


class ColumnName(click.ParamType[tuple[str, str]]):
    """A field of requests and the name of its column, such as prompt=text."""

    name = "field=name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split a pair at its first sign of equality."""
        name, _, column = str(value).partition("=")
        if not name or not column:
            self.fail(f"{value!r} is not FIELD=NAME, such as prompt=text", param, ctx)
        return name, column


class NamedValue(click.ParamType[tuple[str, object]]):
    """A body field and its JSON value, such as temperature=0.2 or user="ada"."""

    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        """Split a pair; text that is no JSON is a string."""
        if isinstance(value, tuple):  # from a settings file
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE, such as temperature=0.2", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            return name, text
