"""A settings file held against the commands and options that there are."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

import click

from aobatch.cli.settings import Settings, key_of, leaves, options_of, path_of, value_for
from aobatch.errors import UsageError

_ACCEPTED: Mapping[str, tuple[type, ...]] = {
    "allowance": (int, str),
    "boolean": (bool,),
    "duration": (int, float, str),
    "float": (int, float),
    "integer": (int,),
    "integer range": (int,),
    "name=value": (dict,),
    "size": (int, str),
    "value": (str, bool, int, float, list, dict),
}
"""The TOML types of each kind of option; a string for all others."""

_NAMES = {str: "a string", bool: "true or false", int: "an integer", dict: "a table"}


def check_settings(settings: Settings, root: click.Context) -> None:
    """Hold a whole file against the commands of the program; UsageError names file and key."""
    _Checker(settings, root).check(settings.values, ())


class _Checker:
    """The options of all commands, which keys are held against."""

    def __init__(self, settings: Settings, root: click.Context) -> None:
        self._file = settings.path
        self._commands = {path_of(ctx): ctx for ctx in leaves(root)}

    def check(self, table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        """Check the table of a command, or of several whose words begin so."""
        length = len(path)
        below = {p: ctx for p, ctx in self._commands.items() if p[:length] == path}
        members = {p[length] for p in below if len(p) > length}
        holders = below if not path else {p: ctx for p, ctx in below.items() if p == path}
        for name, value in table.items():
            where = f"{self._file}: {'.'.join((*path, name))}"
            options = [
                (ctx, option)
                for ctx in holders.values()
                if (option := options_of(ctx.command).get(key_of(name)))
            ]
            if name in members and isinstance(value, dict):
                self.check(value, (*path, name))
            elif options:
                for ctx, option in options:
                    _check_value(option, value, ctx, where)
            else:
                known = {key for ctx in holders.values() for key in options_of(ctx.command)}
                message = f"{where} is no setting{_suggestion(name, known | members)}"
                raise UsageError(message)


def _check_value(option: click.Option, value: object, ctx: click.Context, where: str) -> None:
    types = _ACCEPTED.get(option.type.name, (str,))
    is_list = option.multiple and dict not in types
    elements = value if is_list and isinstance(value, list) else [value]
    if not all(_is_one_of(element, types) for element in elements):
        expected = " or ".join(_NAMES.get(kind, "a number") for kind in types)
        message = f"{where}: expected {expected}, but got {value!r}"
        raise UsageError(message)
    try:
        option.type_cast_value(ctx, value_for(option, value))
    except click.BadParameter as error:
        message = f"{where}: {error.message}"
        raise UsageError(message) from error


def _is_one_of(value: object, types: tuple[type, ...]) -> bool:
    # True is an integer for Python alone.
    return isinstance(value, types) and (bool in types or not isinstance(value, bool))


def _suggestion(name: str, known: Iterable[str]) -> str:
    matches = get_close_matches(key_of(name), known, n=1)
    return f"; did you mean {matches[0]}?" if matches else ""
