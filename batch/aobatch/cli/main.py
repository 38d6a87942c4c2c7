"""The command `aobatch`."""

import platform
from importlib.metadata import PackageNotFoundError, version

import click

from aobatch.cli.help import LazyGroup


class Commands(LazyGroup):
    """The subcommands."""

    lazy_commands = {  # noqa: RUF012 - declared as a ClassVar in LazyGroup
        "run": ("aobatch.cli.run", "Answer every request of the input files."),
        "status": (
            "aobatch.cli.status",
            "Say how far a running or interrupted job is.",
        ),
        "report": (
            "aobatch.cli.report",
            "Show the usage report of a job again.",
        ),
        "models": ("aobatch.cli.models", "List, fetch, convert and inspect models."),
        "complete": (
            "aobatch.cli.complete",
            "Complete one prompt; - reads it from standard input.",
        ),
        "bench": (
            "aobatch.cli.bench",
            "Measure jobs, decode steps and prefill, in tokens a second.",
        ),
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
    parts = [f"{name} {_version(name)}" for name in ("onnxruntime", "tokenizers", "pyarrow")]
    python = f"Python {platform.python_version()}"
    click.echo(f"aobatch {_version('aobatch')} ({', '.join([python, *parts])})")
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
    is_eager=True,
    expose_value=False,
    callback=print_version,
    help="Show the versions of aobatch and of what it runs on, and exit.",
)
def aobatch() -> None:
    """Run files of completion requests through a local model."""


def main() -> None:
    """Run the command line."""
    aobatch(prog_name="aobatch")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"
