"""Settings files: aobatch.toml, or [tool.aobatch] of pyproject.toml, as defaults of options.

Keys are the long names of options. Those ahead of all tables hold for every command that has such
an option, those in a table such as [run] or [models.pull] for that command alone.
"""

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from aobatch.errors import UsageError
from aobatch.text import nearest

FILE, PROJECT_FILE = Path("aobatch.toml"), Path("pyproject.toml")


@dataclass(frozen=True, slots=True)
class Settings:
    """What a settings file says."""

    path: Path | None
    """None if there is no file."""
    values: Mapping[str, Any]


def find_settings(named: Path | None) -> Settings:
    """Read the named file, else that of the working folder; UsageError if it is no TOML."""
    for path in [named] if named else [FILE, PROJECT_FILE]:
        if named or path.is_file():
            values: Any = _read(path)
            if path.name == PROJECT_FILE.name:
                values = values.get("tool", {}).get("aobatch")
            if isinstance(values, dict):
                return Settings(path, values)
    return Settings(None, {})


def defaults_for(ctx: click.Context, settings: Settings) -> dict[str, Any]:
    """Give the settings of a command by the names of its parameters.

    UsageError if anything in the file is wrong, so that a slip is found by whatever command comes
    first.
    """
    if settings.path is None:
        return {}
    check_settings(settings, ctx.find_root())
    own: Mapping[str, Any] = settings.values
    for name in path_of(ctx):
        own = own.get(name, {})
    options = options_of(ctx.command)
    given = {key_of(name): value for name, value in settings.values.items()}
    given |= {key_of(name): value for name, value in own.items()}
    return {
        str(option.name): value_for(option, given[name])
        for name, option in options.items()
        if name in given
    }


def leaves(ctx: click.Context) -> Iterator[click.Context]:
    """Give a context for every command below that of ctx, groups left out."""
    if not isinstance(ctx.command, click.Group):
        yield ctx
        return
    for name in ctx.command.list_commands(ctx):
        member = ctx.command.get_command(ctx, name)
        if member is not None:
            yield from leaves(click.Context(member, info_name=name, parent=ctx))


def path_of(ctx: click.Context) -> tuple[str, ...]:
    """Give the words that name a command behind that of the program."""
    return tuple(ctx.command_path.split()[1:])


def options_of(command: click.Command) -> dict[str, click.Option]:
    """Give the options that a file may set, by their long names: eager ones are read before it."""
    options = [param for param in command.params if isinstance(param, click.Option)]
    return {max(o.opts, key=len).lstrip("-"): o for o in options if not o.is_eager}


def value_for(option: click.Option, value: Any) -> Any:  # noqa: ANN401 - whatever TOML holds
    """Give a value of the file as the option wants it."""
    if not option.multiple:
        return value
    if isinstance(value, dict):
        return tuple(value.items())
    return tuple(value) if isinstance(value, list) else (value,)


def key_of(name: str) -> str:
    """Give the way in which a key is compared: max_num_seqs is max-num-seqs."""
    return name.replace("_", "-")


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except (OSError, ValueError) as error:
        message = f"settings file {path} cannot be read: {error}"
        raise UsageError(message) from error


_BUILT_IN = {"boolean": (bool,), "integer": (int,), "integer range": (int,)}
"""The TOML types of click's own kinds; all others are strings unless they say it."""

_NAMES = {str: "a string", bool: "true or false", int: "an integer", dict: "a table"}


def check_settings(settings: Settings, root: click.Context) -> None:
    """Hold a whole file against the commands of the program; UsageError names file and key."""
    commands = {path_of(ctx): ctx for ctx in leaves(root)}

    def check(table: Mapping[str, Any], path: tuple[str, ...]) -> None:
        """Check the table of a command, or of several whose words begin so."""
        below = [p for p in commands if p[: len(path)] == path]
        members = {p[len(path)] for p in below if p != path}
        holders = {p: options_of(commands[p].command) for p in below if not path or p == path}
        for name, value in table.items():
            where = f"{settings.path}: {'.'.join((*path, name))}"
            key = key_of(name)
            found = [(p, options[key]) for p, options in holders.items() if key in options]
            if name in members and isinstance(value, dict):
                check(value, (*path, name))
                continue
            if not found:
                known = members.union(*holders.values())
                meant = nearest(key, tuple(known))
                message = f"{where} is no setting{f'; did you mean {meant}?' if meant else ''}"
                raise UsageError(message)
            for holder, option in found:
                _check_value(option, value, commands[holder], where)

    check(settings.values, ())


def _check_value(option: click.Option, value: object, ctx: click.Context, where: str) -> None:
    types = getattr(option.type, "toml", _BUILT_IN.get(option.type.name, (str,)))
    is_list = option.multiple and dict not in types
    elements = value if is_list and isinstance(value, list) else [value]
    if not {type(element) for element in elements} <= {*types}:
        expected = " or ".join(_NAMES.get(kind, "a number") for kind in types)
        message = f"{where}: expected {expected}, but got {value!r}"
        raise UsageError(message)
    try:
        option.type_cast_value(ctx, value_for(option, value))
    except click.BadParameter as error:
        message = f"{where}: {error.message}"
        raise UsageError(message) from error
