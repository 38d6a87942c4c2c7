"""Commands of this program: settings come from a file too, and the help ends with exit codes."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import click

from aobatch.cli.console import show
from aobatch.cli.ending import reported_failures

EXIT_CODES = {
    0: "every line was answered, or as many as --max-failures asks for",
    1: "published, but more lines failed than --max-failures allows",
    2: "the command line or a setting is wrong",
    65: "an input is not readable, or the state belongs to another job",
    66: "there is no such input",
    69: "the model is missing or cannot be used",
    70: "a defect of aobatch",
    73: "the output cannot be created",
    74: "the disk is full or failed",
    75: "another run is at work on this job, or the time limit came; run again later",
    130: "stopped by Ctrl-C (SIGINT); run again to go on",
    143: "stopped by SIGTERM; run again to go on",
}
"""Those of `aobatch run`."""

ALWAYS = (2, 70)
"""Codes that every command may end with."""


def exit_codes(own: Mapping[int, str], *shared: int) -> dict[int, str]:
    """Give the table of a command: what only it says, and the codes that mean what run's do."""
    codes = {code: EXIT_CODES[code] for code in (*ALWAYS, *shared)} | dict(own)
    return dict(sorted(codes.items()))


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


class GroupedCommand(Command):
    """A command whose help lists its options under titles."""

    option_groups: ClassVar[Mapping[str, tuple[str, ...]]]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group, those of no group last."""
        parameters = {p.name: p for p in self.get_params(ctx) if isinstance(p, click.Option)}
        groups = {
            title: [parameters.pop(name) for name in names]
            for title, names in self.option_groups.items()
        }
        for title, members in {**groups, "Other options": [*parameters.values()]}.items():
            records = [parameter.get_help_record(ctx) for parameter in members]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


class LazyGroup(Helpful, click.Group):
    """A group that knows its commands' names and first sentences and imports one on its use."""

    lazy_commands: ClassVar[Mapping[str, tuple[str, str]]]
    """The module and the first sentence of each command."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names in their order."""
        return list(self.lazy_commands)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command, in which the command has the same name."""
        if cmd_name not in self.lazy_commands:
            return super().get_command(ctx, cmd_name)
        module, _ = self.lazy_commands[cmd_name]
        command: click.Command = getattr(import_module(module), cmd_name)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands with their first sentences, importing none."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy_commands.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line ahead of the command, answering --help and --version."""
        with reported_failures():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command; whatever goes wrong becomes a sentence and an exit code."""
        with reported_failures():
            return super().invoke(ctx)
