"""Options of `aobatch run` for files: what is read, and where results go."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from aobatch.cli.parameters import ANY_PATH, ColumnName, FileLocation
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.formats.remote import Location
    from aobatch.job.config import JobConfig

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("input_file", "output", "errors", "depfile", "column", "stream_format", "state_dir")
STREAM_FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2", "jsonl.lz4", "parquet")
"""The suffixes that `formats` knows, which takes longer to load."""

_NAMED_INPUTS = f"{__name__}.named_inputs"


class InputOptions(TypedDict):
    """What the command line says of inputs."""

    inputs: "tuple[Location, ...]"
    column: tuple[tuple[str, str], ...]
    stream_format: str | None


class FileOptions(InputOptions):
    """What the command line says of inputs and outputs."""

    output: "Location | None"
    errors: "Location | None"
    depfile: Path | None
    state_dir: Path | None


state_dir_option = click.option(
    "--state-dir",
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="Where the state of a job is whose OUT is a URI. Default: aobatch-state.",
)


def _with_others(
    ctx: click.Context, argument: click.Parameter, inputs: "tuple[Location, ...]"
) -> "tuple[Location, ...]":
    """Put what stands behind -i ahead of the other inputs; there must be one."""
    found: tuple[Location, ...] = ctx.meta.get(_NAMED_INPUTS, ()) + inputs
    if not found and not ctx.resilient_parsing:
        raise click.MissingParameter(ctx=ctx, param=argument)
    return found


def _note_inputs(ctx: click.Context, _: click.Parameter, inputs: "tuple[Location, ...]") -> None:
    ctx.meta[_NAMED_INPUTS] = inputs


input_option = click.option(
    "-i",
    "--input-file",
    metavar="IN",
    type=FileLocation(),
    multiple=True,
    is_eager=True,
    expose_value=False,
    callback=_note_inputs,
    help="An input, as vLLM's run-batch names it; may be repeated.",
)

inputs_argument = click.argument(
    "inputs", metavar="IN...", nargs=-1, type=FileLocation(), callback=_with_others
)

column_option = click.option(
    "--column",
    metavar="FIELD=NAME",
    type=ColumnName(),
    multiple=True,
    help="The column of Parquet inputs that gives a field; may be repeated.",
)

format_option = click.option(
    "--format",
    "stream_format",
    type=click.Choice(STREAM_FORMATS),
    help="What standard input and output are, where IN or OUT is -. Default: jsonl.",
)

_OPTIONS = (
    inputs_argument,
    input_option,
    click.option(
        "-o",
        "--output",
        metavar="OUT",
        type=FileLocation(),
        help="Where the answers go: a file, a URI, a name with {stem} and so on, or - for "
        "standard output. Default: {dir}/{stem}.out{ext}.",
    ),
    click.option(
        "--errors", metavar="FILE", type=FileLocation(), help="Write failed lines there as well."
    ),
    click.option(
        "--depfile",
        metavar="PATH",
        type=ANY_PATH,
        help="Where to write, for make, which files OUT is made from.",
    ),
    column_option,
    format_option,
    state_dir_option,
)


def file_options(command: F) -> F:
    """Add the inputs and the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def input_files(options: InputOptions, *written: "Location | None") -> "tuple[Location, ...]":
    """Find the files that the inputs name, without those that are written."""
    from aobatch.job.paths import expand_inputs

    return expand_inputs(options["inputs"], [path for path in written if path is not None])


def stream_format_of(options: InputOptions, *written: "Location | None") -> str:
    """Give what standard input and output are; UsageError if neither is used."""
    from aobatch.job.config import STREAM

    named = options["stream_format"]
    if named is not None and STREAM not in {*options["inputs"], *written}:
        message = "--format is for an IN or OUT that is -; of files, their names say it"
        raise UsageError(message)
    return named or "jsonl"


def columns_of(options: InputOptions) -> dict[str, str]:
    """Give the columns that fields are read from; UsageError if a field has two."""
    columns = dict(options["column"])
    if len(columns) != len(options["column"]):
        message = "a field was given two columns; give each --column FIELD once"
        raise UsageError(message)
    return columns


def plan(config: "JobConfig", options: FileOptions) -> "Sequence[JobConfig]":
    """Give the jobs that the command line asks for, each with its output."""
    from aobatch.job.paths import Targets, plan_jobs

    targets = Targets(options["output"], options["errors"], options["state_dir"])
    return plan_jobs(config, targets)
