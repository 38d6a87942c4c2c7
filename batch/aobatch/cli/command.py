"""Commands of this program: settings come from a file too, and the help ends with exit codes."""

import os
from collections.abc import Callable, Mapping
from dataclasses import fields
from inspect import cleandoc
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate

import click

from aobatch.cli.console import say, show
from aobatch.cli.options import AnyOptions, PricesOption, parameters
from aobatch.text import nearest

if TYPE_CHECKING:
    from aobatch.job.paths import Place

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
    77: "a store refuses access; give it the keys, or the rights, that it asks for",
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


_NAMED_FILE, _FILE_IN_USE = f"{__name__}.named_file", f"{__name__}.file_in_use"


def settings_file(ctx: click.Context) -> Path | None:
    """Give the settings file that the command line names."""
    path: Path | None = ctx.meta.get(_NAMED_FILE)
    return path


def settings_in_use() -> Path | None:
    """Give the settings file that the command at work has read, named or found."""
    ctx = click.get_current_context(silent=True)
    path: Path | None = ctx.meta.get(_FILE_IN_USE) if ctx else None
    return path


def places_read(options: PricesOption) -> "list[Place]":
    """List the files that shape a command beside what it is about: none is to be written."""
    from aobatch.cli.settings import FILE, PROJECT_FILE
    from aobatch.job.paths import Place

    named = settings_file(click.get_current_context())
    places = [Place(path, "the settings file") for path in (named, FILE, PROJECT_FILE) if path]
    return places + ([Place(options.prices, "--prices")] if options.prices else [])


def _apply_settings(ctx: click.Context, _: click.Parameter, path: Path | None) -> None:
    """Let the settings file give a command defaults; this option is read ahead of all others."""
    from aobatch.cli.settings import defaults_for, find_settings

    if path is not None:
        ctx.meta[_NAMED_FILE] = path
    if ctx.parent is not None and not ctx.resilient_parsing:
        settings = find_settings(settings_file(ctx))
        ctx.meta[_FILE_IN_USE] = settings.path
        ctx.default_map = defaults_for(ctx, settings)


CONFIG_OPTION = click.Option(
    ["-C", "--config"],
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    expose_value=False,
    callback=_apply_settings,
    help="Settings; default: aobatch.toml here, or [tool.aobatch] of pyproject.toml.",
)
"""Of every command and of the program; the one of a command counts."""


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

    exit_codes: Mapping[int, str]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line; what is misspelt, or a field of requests, gets a hint."""
        given = list(args)
        try:
            left = super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise _explained(error, self, given) from error
        if not ctx.resilient_parsing:
            _warn_of_variables(ctx)
        return left

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write what the exit codes mean."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), text) for code, text in self.exit_codes.items()])


def _explained(
    error: click.NoSuchOption, command: click.Command, args: list[str]
) -> click.NoSuchOption:
    """Name the option that was meant, or say how requests get a field."""
    from aobatch.api import errors
    from aobatch.api.validation import NAMES

    known = {name for param in command.params for name in (*param.opts, *param.secondary_opts)}
    name = error.option_name
    field = errors.meant_by(name.lstrip("-").replace("-", "_"), NAMES, is_exact=True)
    if "--default" in known and field is not None:
        after = args[args.index(name) + 1 :] if name in args else []
        value = after[0] if after and not after[0].startswith("-") else "VALUE"
        advice = f"say it of all lines with --default {field}={value}"
        message = f"{error.message.removesuffix('.')}; {advice}"
        return click.NoSuchOption(name, message, None, error.ctx)
    meant = nearest(name, tuple(known))
    return click.NoSuchOption(name, error.message, [meant] if meant else None, error.ctx)


def _warn_of_variables(ctx: click.Context) -> None:
    """Say that a variable for an option that does not exist does nothing."""
    prefix = f"{ctx.auto_envvar_prefix}_"
    known = {f"{prefix}{param.name}".upper() for param in ctx.command.params}
    for name in sorted(os.environ):
        if name.startswith(prefix) and name not in known:
            meant = nearest(name, tuple(known))
            hint = f"; did you mean {meant}?" if meant else ""
            say(f"the variable {name} is of no option and does nothing{hint}", level="warning")


class Group(Helpful, click.Group):
    """A group of such commands."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command of a name; a misspelt one gets a hint."""
        name = args[0]
        if self.get_command(ctx, name) is None and not ctx.resilient_parsing:
            meant = nearest(name, tuple(self.list_commands(ctx)))
            if meant:
                ctx.fail(f"No such command {name!r}. Did you mean {meant!r}?")
        return super().resolve_command(ctx, args)


def command(
    table: type[AnyOptions],
    codes: Mapping[int, str] = exit_codes({0: "done"}),
    *,
    name: str | None = None,
    kind: type[Command] = Command,
) -> Callable[[Callable[Concatenate[AnyOptions, ...], None]], Command]:
    """Make a function a command whose help is its docstring, in which examples keep their lines.

    It gets its options, and by name what they have no field for.
    """

    def decorate(function: Callable[Concatenate[AnyOptions, ...], None]) -> Command:
        def call(**values: object) -> None:
            own = {item.name: values.pop(item.name) for item in fields(table)}
            function(table(**own), **values)

        text = cleandoc(function.__doc__ or "").replace("Examples:\n", "\b\nExamples:\n")
        params = [*parameters(table), CONFIG_OPTION]
        made = kind(name or function.__name__, params=params, callback=call, help=text)
        made.exit_codes = codes
        return made

    return decorate
