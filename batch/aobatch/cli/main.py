"""The command `aobatch`."""

import json

import click

from aobatch.cli.command import ROOT_CONFIG_OPTION, LazyGroup
from aobatch.cli.console import show

_AS_JSON = f"{__name__}.as_json"


class Commands(LazyGroup):
    """The subcommands."""

    lazy_commands = {  # noqa: RUF012 - declared as a ClassVar in LazyGroup
        "run": ("aobatch.cli.run", "Answer every request of the input files."),
        "validate": ("aobatch.cli.validate", "Check the lines of a job and say what it will take."),
        "status": (
            "aobatch.cli.jobs",
            "Say how far a running or interrupted job is.",
        ),
        "report": (
            "aobatch.cli.jobs",
            "Show the usage report of a job again.",
        ),
        "merge": ("aobatch.cli.jobs", "Put the outputs of all shards of a job together."),
        "models": ("aobatch.cli.models", "List, fetch, convert, inspect and verify models."),
        "complete": (
            "aobatch.cli.complete",
            "Complete one prompt; - reads it from standard input.",
        ),
        "bench": (
            "aobatch.cli.bench",
            "Measure jobs, decode steps and prefill, or files alone.",
        ),
        "doctor": ("aobatch.cli.doctor", "Say whether this machine can run jobs."),
        "completion": (
            "aobatch.cli.completion",
            "Print the script by which a shell completes commands.",
        ),
        "config": ("aobatch.cli.config", "Show settings and where they come from."),
    }


HELP = """Run files of completion requests through a local model.

\b
Examples:
  aobatch run jobs/poems.jsonl
  aobatch run a.jsonl b.jsonl.gz -o answers.jsonl
  aobatch models list
"""


def print_version(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Print what a report of a defect should name."""
    if not is_asked or ctx.resilient_parsing:
        return
    from aobatch.cli.doctor import version_facts, version_line

    show(json.dumps(version_facts(), indent=2) if ctx.meta[_AS_JSON] else version_line())
    ctx.exit()


def note_json(ctx: click.Context, _: click.Parameter, is_asked: bool) -> None:
    """Remember how the version is to be printed."""
    ctx.meta[_AS_JSON] = is_asked


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
    expose_value=False,
    callback=print_version,
    help="Show the versions of aobatch and of what it runs on, and exit.",
)
@click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=note_json,
    help="With --version: print it as JSON.",
)
def aobatch() -> None:
    """Run files of completion requests through a local model."""


aobatch.params.append(ROOT_CONFIG_OPTION)


def main() -> None:
    """Run the command line."""
    aobatch(prog_name="aobatch")
