"""Kinds of option values that click does not know."""

import json
import re

import click

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


class NamedValue(click.ParamType[tuple[str, object]]):
    """A body field and its JSON value, such as temperature=0.2 or user="ada"."""

    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        """Split a pair; text that is no JSON is a string."""
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE, such as temperature=0.2", param, ctx)
        try:
            return name, json.loads(text)
        except ValueError:
            return name, text
