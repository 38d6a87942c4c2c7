"""The command `aobatch`."""

import os
import threading
from contextlib import suppress
from importlib import import_module

import click

from aobatch.cli.command import CONFIG_OPTION, Group
from aobatch.cli.console import flush_results, show, show_json
from aobatch.cli.ending import reported_failures

COMMANDS = {
    "run": ("run", "Answer every request of the input files."),
    "validate": ("validate", "Check the lines of a job and say what it will take."),
    "status": ("jobs", "Say how far a running or interrupted job is."),
    "results": ("jobs", "Print the answers that a job has so far, as lines."),
    "report": ("jobs", "Show the usage report of a job again."),
    "merge": ("jobs", "Put the outputs of all shards of a job together."),
    "models": ("models", "List, fetch, convert, inspect and verify models."),
    "complete": ("complete", "Complete one prompt; - reads it from standard input."),
    "serve": ("serve", "Answer requests over HTTP, and batches of files."),
    "bench": ("bench", "Measure jobs, decode steps and prefill, or files alone."),
    "doctor": ("doctor", "Say whether this machine can run jobs."),
    "completion": ("config", "Print the script by which a shell completes commands."),
    "config": ("config", "Show settings and where they come from."),
}
"""The module and the first sentence of each command, which the help shows importing none."""

HELP = """Run files of completion requests through a local model.

\b
Examples:
  aobatch run jobs/poems.jsonl
  aobatch run a.jsonl b.jsonl.gz -o answers.jsonl
  aobatch models list
"""


class Commands(Group):
    """The commands, each imported on its use; whatever goes wrong in one becomes an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Give the names in their order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the module of a command, in which the command has the same name."""
        if cmd_name not in COMMANDS:
            return super().get_command(ctx, cmd_name)
        module = import_module(f"aobatch.cli.{COMMANDS[cmd_name][0]}")
        command: click.Command = getattr(module, cmd_name)
        return command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands with their first sentences."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, sentence) for name, (_, sentence) in COMMANDS.items()])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line ahead of the command, answering --help and --version."""
        with reported_failures():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run a command."""
        with reported_failures():
            return super().invoke(ctx)


def print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print what a report of a defect should name."""
    if not is_asked or ctx.resilient_parsing:
        return
    from aobatch.cli.doctor import version_facts, version_line

    if ctx.params["json"]:
        show_json(version_facts())
    else:
        show(version_line())
    ctx.exit()


@click.group(
    cls=Commands,
    help=HELP,
    context_settings={
        "auto_envvar_prefix": "AOBATCH",
        "help_option_names": ["-h", "--help"],
        "max_content_width": 100,
    },
)
@click.option(
    "--version",
    is_flag=True,
    callback=print_version,
    help="Show the versions of aobatch and of what it runs on, and exit.",
)
@click.option("--json", is_flag=True, is_eager=True, help="With --version: print it as JSON.")
def aobatch(**_: bool) -> None:
    """Run files of completion requests through a local model."""


aobatch.params.append(CONFIG_OPTION)


def main() -> None:
    """Run the command line."""
    try:
        aobatch(prog_name="aobatch")
    except SystemExit as end:
        if threading.active_count() > 1:
            from aobatch.executors.local import NATIVE

            # A library that is unloaded under a thread at work, as when the time limit came while a
            # model was opened, would abort the process.
            if any(thread.name == NATIVE for thread in threading.enumerate()):
                with suppress(Exception):
                    flush_results()
                os._exit(end.code if isinstance(end.code, int) else 1)
        raise
