"""The settings of all commands as rows, each with its origin."""

from dataclasses import dataclass
from typing import Literal

import click
from click.core import ParameterSource

from aobatch.cli.settings import Settings, defaults_for, leaves, options_of, path_of


@dataclass(frozen=True, slots=True)
class SettingRow:
    """A setting of a command as it holds without further options."""

    command: str
    name: str
    """The long name of the option."""
    value: object
    """None if nobody gives one."""
    source: Literal["default", "file", "variable"]
    where: str | None
    """The file or the variable."""


def setting_rows(root: click.Context, settings: Settings) -> list[SettingRow]:
    """Give the rows of every command that there is below a root."""
    rows = []
    for ctx in leaves(root):
        ctx.default_map = defaults_for(ctx, settings)
        for name, option in options_of(ctx.command).items():
            rows.append(_row(ctx, name, option, settings))
    return rows


def _row(ctx: click.Context, name: str, option: click.Option, settings: Settings) -> SettingRow:
    given, origin = option.consume_value(ctx, {})
    command = " ".join(path_of(ctx))
    if origin is ParameterSource.DEFAULT:
        return SettingRow(command, name, option.to_info_dict()["default"], "default", None)
    value = option.type_cast_value(ctx, given)
    if origin is ParameterSource.ENVIRONMENT:
        return SettingRow(command, name, value, "variable", _variable(ctx, option))
    return SettingRow(command, name, value, "file", str(settings.path))


def _variable(ctx: click.Context, option: click.Option) -> str:
    return f"{ctx.auto_envvar_prefix}_{str(option.name).upper()}"
