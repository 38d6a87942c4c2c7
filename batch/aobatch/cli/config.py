"""`aobatch config`: every setting, its value, and where that comes from."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from aobatch.cli.command import Group, settings_file
from aobatch.cli.console import show
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


HELP = """Show every setting of every command, its value, and where that comes from.

\b
Examples:
  aobatch config show
  AOBATCH_RUN_SEED=7 aobatch config show | grep seed
  aobatch -C nightly.toml config show --json

A value comes from an option of the command line, else from a variable, else from the settings
file, else it is the default. The file is the one that --config names, else aobatch.toml of the
working folder, else the table [tool.aobatch] of pyproject.toml there. Keys are the long names of
options: ahead of all tables for every command that has the option, in [run] for aobatch run.
"""


@click.group(cls=Group)
def config() -> None:
    """Show settings and where they come from."""


@config.command("show", help=HELP)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.pass_context
def show_all(ctx: click.Context, *, as_json: bool) -> None:
    """Show every setting of every command, its value, and where that comes from."""
    from aobatch.cli.settings import find_settings

    settings = find_settings(settings_file(ctx))
    rows = setting_rows(ctx.find_root(), settings)
    if as_json:
        file = None if settings.path is None else str(settings.path)
        found = {"file": file, "settings": [asdict(row) for row in rows]}
        show(json.dumps(found, indent=2, default=_plain))
        return
    show(f"settings file: {settings.path or 'none'}")
    width = max(len(f"{row.command} {row.name}") for row in rows)
    for row in rows:
        name = f"{row.command} {row.name}"
        value = json.dumps(row.value, ensure_ascii=False, default=_plain)
        source = row.source if row.where is None else f"{row.source} {row.where}"
        show(f"{name:<{width}}  {'' if row.value is None else value:<12}  {source}")


def _plain(value: object) -> object:
    return str(value) if isinstance(value, Path) else repr(value)
