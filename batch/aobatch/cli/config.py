"""`aobatch config` and `aobatch completion`: settings and where they come from, shells' scripts."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import click
from click.core import ParameterSource
from click.shell_completion import get_completion_class

from aobatch.cli.command import Group, command, settings_file
from aobatch.cli.console import show, show_json, show_table
from aobatch.cli.options import JsonOption, Options, options
from aobatch.cli.settings import Settings, defaults_for, find_settings, leaves, options_of, path_of


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


def setting_rows(root: click.Context, settings: Settings) -> Iterator[SettingRow]:
    """Yield the rows of every command that there is below a root."""
    for ctx in leaves(root):
        ctx.default_map = defaults_for(ctx, settings)
        command = " ".join(path_of(ctx))
        for name, option in options_of(ctx.command).items():
            given, origin = option.consume_value(ctx, {})
            if origin is ParameterSource.DEFAULT:
                default = option.to_info_dict()["default"]
                yield SettingRow(command, name, default, "default", None)
                continue
            value = option.type_cast_value(ctx, given)
            is_plain = isinstance(value, str | bool | int | float | tuple | list | dict)
            value = value if is_plain or value is None else str(value)
            if origin is ParameterSource.ENVIRONMENT:
                variable = f"{ctx.auto_envvar_prefix}_{str(option.name).upper()}"
                yield SettingRow(command, name, value, "variable", variable)
            else:
                yield SettingRow(command, name, value, "file", str(settings.path))


@click.group(cls=Group)
def config() -> None:
    """Show settings and where they come from."""


@command(JsonOption, name="show")
def show_all(options: JsonOption) -> None:
    """Show every setting of every command, its value, and where that comes from.

    Examples:
      aobatch config show
      AOBATCH_RUN_SEED=7 aobatch config show | grep seed
      aobatch -C nightly.toml config show --json

    A value comes from an option of the command line, else from a variable, else from the settings
    file, else it is the default. The file is the one that --config names, else aobatch.toml of the
    working folder, else the table [tool.aobatch] of pyproject.toml there. Keys are the long names
    of options: ahead of all tables for every command that has the option, in [run] for aobatch run.
    """
    ctx = click.get_current_context()
    settings = find_settings(settings_file(ctx))
    rows = list(setting_rows(ctx.find_root(), settings))
    if options.as_json:
        file = None if settings.path is None else str(settings.path)
        show_json({"file": file, "settings": rows})
        return
    show(f"settings file: {settings.path or 'none'}")
    show_table(
        (
            f"{row.command} {row.name}",
            "" if row.value is None else json.dumps(row.value, ensure_ascii=False),
            row.source if row.where is None else f"{row.source} {row.where}",
        )
        for row in rows
    )


config.add_command(show_all)


@options()
class ShellOptions(Options):
    """What the command line gives."""

    shell: Literal["bash", "zsh", "fish"]


@command(ShellOptions)
def completion(options: ShellOptions) -> None:
    """Print the script by which a shell completes commands.

    Examples:
      eval "$(aobatch completion bash)"       # in ~/.bashrc
      eval "$(aobatch completion zsh)"        # in ~/.zshrc, behind compinit
      aobatch completion fish > ~/.config/fish/completions/aobatch.fish
    """
    kind = get_completion_class(options.shell)
    assert kind is not None
    program = click.get_current_context().find_root().command
    script = kind(program, {}, "aobatch", "_AOBATCH_COMPLETE")
    # Not source(), which asks the bash that is installed here whether it is new enough.
    show(script.source_template % script.source_vars())
