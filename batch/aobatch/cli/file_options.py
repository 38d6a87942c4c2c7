"""Options of `aobatch run` for files: what is read, and where results go."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import click

from aobatch.cli.parameters import ANY_PATH, ColumnName, FileLocation
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.formats.location import Location
    from aobatch.job.config import JobConfig

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("output", "errors", "depfile", "column", "state_dir")


class InputOptions(TypedDict):
    """What the command line says of inputs."""

    inputs: "tuple[Location, ...]"
    column: tuple[tuple[str, str], ...]


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

inputs_argument = click.argument(
    "inputs", metavar="IN...", nargs=-1, required=True, type=FileLocation()
)

column_option = click.option(
    "--column",
    metavar="FIELD=NAME",
    type=ColumnName(),
    multiple=True,
    help="The column of Parquet inputs that gives a field; may be repeated.",
)

_OPTIONS = (
    inputs_argument,
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
    state_dir_option,
)


def file_options(command: F) -> F:
    """Add the inputs and the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def input_files(options: InputOptions, *written: "Location | None") -> "tuple[Location, ...]":
    """Find the files that the inputs name, without those that are written."""
    from aobatch.job.inputs import expand_inputs

    return expand_inputs(options["inputs"], [path for path in written if path is not None])


def columns_of(options: InputOptions) -> dict[str, str]:
    """Give the columns that fields are read from; UsageError if a field has two."""
    columns = dict(options["column"])
    if len(columns) != len(options["column"]):
        message = "a field was given two columns; give each --column FIELD once"
        raise UsageError(message)
    return columns


def plan(config: "JobConfig", options: FileOptions) -> "Sequence[JobConfig]":
    """Give the jobs that the command line asks for, each with its output."""
    from aobatch.job.outputs import Targets, plan_jobs

    targets = Targets(options["output"], options["errors"], options["state_dir"])
    return plan_jobs(config, targets)
