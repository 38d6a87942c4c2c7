"""Help pages with options in groups, and commands that load when they are used."""

from collections.abc import Mapping
from importlib import import_module
from typing import ClassVar

import click

from aobatch.cli.command import Command, Helpful
from aobatch.cli.failures import reported_failures


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
