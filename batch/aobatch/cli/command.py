"""Commands of this program: settings come from a file too, and the help ends with exit codes."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes

_SETTINGS_FILE = f"{__name__}.settings_file"
_SETTINGS_IN_USE = f"{__name__}.settings_in_use"


def settings_file(ctx: click.Context) -> Path | None:
    """Give the settings file that the command line names."""
    path: Path | None = ctx.meta.get(_SETTINGS_FILE)
    return path


def settings_in_use() -> Path | None:
    """Give the settings file that the command at work has read, named or found."""
    ctx = click.get_current_context(silent=True)
    path: Path | None = ctx.meta.get(_SETTINGS_IN_USE) if ctx else None
    return path


def is_given(name: str) -> bool:
    """Say whether an option of the command at work has a value from outside the program."""
    source = click.get_current_context().get_parameter_source(name)
    return source not in {None, click.core.ParameterSource.DEFAULT}


def _note_file(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    if path is not None:
        ctx.meta[_SETTINGS_FILE] = path


def _apply_settings(ctx: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Let the settings file give defaults; this option is read ahead of all others."""
    from aobatch.cli.settings import defaults_for, find_settings

    _note_file(ctx, parameter, path)
    if not ctx.resilient_parsing:
        settings = find_settings(settings_file(ctx))
        ctx.meta[_SETTINGS_IN_USE] = settings.path
        ctx.default_map = defaults_for(ctx, settings)


def _config_option(callback: Any) -> click.Option:  # noqa: ANN401 - as click declares it
    return click.Option(
        ["-C", "--config"],
        metavar="FILE",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=callback,
        help="Settings; default: aobatch.toml here, or [tool.aobatch] of pyproject.toml.",
    )


ROOT_CONFIG_OPTION = _config_option(_note_file)
CONFIG_OPTION = _config_option(_apply_settings)


class Helpful(click.Command):
    """A command whose help goes the way of all results, so that failing to write it is told."""

    def get_help_option(self, ctx: click.Context) -> click.Option | None:
        """Give the option, which prints in a way of its own."""
        option = super().get_help_option(ctx)
        if option is not None:
            option.callback = _show_help
        return option


def _show_help(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    if is_asked and not ctx.resilient_parsing:
        show(ctx.get_help())
        ctx.exit()


class Command(Helpful):
    """A command whose options may stand in a settings file."""

    def __init__(
        self,
        *args: Any,  # noqa: ANN401 - click's own
        exit_codes: Mapping[int, str] = exit_codes({0: "done"}),
        **kwargs: Any,  # noqa: ANN401 - click's own
    ) -> None:
        super().__init__(*args, **kwargs)
        self.exit_codes = exit_codes

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Give the parameters, behind them the settings file and the help."""
        parameters = super().get_params(ctx)
        count = len(self.params)
        return [*parameters[:count], CONFIG_OPTION, *parameters[count:]]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit codes mean."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in self.exit_codes.items()])


class Group(Helpful, click.Group):
    """A group of such commands."""

    command_class = Command
