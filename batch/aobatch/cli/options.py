"""Options that several commands have."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, TypeVar, cast

import click
from click.shell_completion import CompletionItem

from aobatch.cli.console import LogFormat
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.formats.remote import Location
    from aobatch.job.config import JobConfig, Selection


ANY_PATH = click.Path(readable=False, path_type=Path)
"""The name of a file; whether it can be used is the job's to say, by an exit code of its own."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class ByteSize(click.ParamType[int]):
    """A number of bytes such as 4GiB, 512M or 1000000; units are powers of 1024."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read a size."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", str(value), re.IGNORECASE)
        if match is None or float(match[1]) == 0:
            self.fail(f"{value!r} is not a size such as 4GiB or 512M", param, ctx)
        return int(float(match[1]) * _UNITS[match[2].upper()])


MAX_SECONDS = 10 * 365 * 86_400
"""Longer times are taken for a slip; the system's timers hold this one."""


class Duration(click.ParamType[float]):
    """A time such as 90s, 30m, 2h or 1h30m; a plain number is seconds."""

    name = "duration"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Read a duration as seconds."""
        pattern = r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?"
        match = re.fullmatch(pattern, str(value).strip().lower())
        parts = match.groups(default="0") if match else ()
        scale = (86_400, 3_600, 60, 1)
        seconds = sum(float(part) * size for part, size in zip(parts, scale, strict=False))
        if not 0 < seconds <= MAX_SECONDS:
            self.fail(f"{value!r} is not a duration such as 90s, 30m or 1h30m", param, ctx)
        return seconds


class Allowance(click.ParamType[str]):
    """A number of lines such as 12, or a percentage such as 2.5%; the job reads it."""

    name = "allowance"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Give its text; a settings file may hold a number."""
        del param, ctx
        return str(value)


class FileLocation(click.ParamType["Location"]):
    """A path or a URI."""

    name = "file"

    def convert(
        self,
        value: object,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> "Location":
        """Tell paths and URIs apart; no name at all, as of an unset variable, is no folder."""
        from aobatch.formats.remote import parse_location

        if value == "":
            self.fail("the name is empty; a variable may be unset", param, ctx)
        return parse_location(value) if isinstance(value, str) else cast("Location", value)


class ColumnName(click.ParamType[tuple[str, str]]):
    """A field of requests and the name of its column, such as prompt=text."""

    name = "field=name"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split a pair at its first sign of equality."""
        name, _, column = str(value).partition("=")
        if not name or not column:
            self.fail(f"{value!r} is not FIELD=NAME, such as prompt=text", param, ctx)
        return name, column


class NamedValue(click.ParamType[tuple[str, object]]):
    """A body field and its JSON value, such as temperature=0.2 or user="ada"."""

    name = "name=value"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, object]:
        """Split a pair; text that is no JSON is a string."""
        if isinstance(value, tuple):  # from a settings file
            return value
        name, equals, text = str(value).partition("=")
        if not equals or not name:
            self.fail(f"{value!r} is not NAME=VALUE, such as temperature=0.2", param, ctx)
        try:
            return name, json.loads(text)
        except (ValueError, RecursionError):
            return name, text


def model_names(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem[str]]:
    """Offer the names and aliases of the models that begin so."""
    from aobatch.models.store.catalogue import list_models

    offered = []
    for row in list_models():
        state = "ready" if row.is_ready else "not pulled"
        names = [(row.name, state), *((alias, f"is {row.name}") for alias in row.aliases)]
        offered += [CompletionItem(name, help=text) for name, text in names]
    return [item for item in offered if item.value.startswith(incomplete)]


Decorator = Callable[[Callable[..., None]], Callable[..., None]]


def _all_cores(_ctx: click.Context, _param: click.Parameter, threads: int | None) -> int:
    return threads or len(os.sched_getaffinity(0))


def _together(*decorators: Decorator) -> Decorator:
    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return decorate


threads_option = click.option(
    "--threads",
    type=click.IntRange(min=1),
    callback=_all_cores,
    help="CPU threads. Default: all cores.",
)

kv_cache_dtype_option = click.option(
    "--kv-cache-dtype",
    type=click.Choice(["fp32", "int8"]),
    default="fp32",
    show_default=True,
    help="Type of keys and values; int8: a quarter of the memory, slower prompts.",
)

cache_options = _together(
    click.option(
        "--max-num-seqs",
        type=click.IntRange(min=1),
        default=128,
        show_default=True,
        help="Sequences decoded together.",
    ),
    click.option(
        "--kv-cache-bytes",
        metavar="SIZE",
        type=ByteSize(),
        help="Memory for keys and values. Default: half of what is free.",
    ),
    kv_cache_dtype_option,
)
"""How many sequences are computed together, and what they may take."""

request_options = _together(
    click.option(
        "-m",
        "--model",
        metavar="NAME",
        shell_complete=model_names,
        help="The model of lines that name none.",
    ),
    click.option(
        "--default",
        metavar="NAME=VALUE",
        type=NamedValue(),
        multiple=True,
        help="A body field for lines that leave it out, as JSON; may be repeated.",
    ),
    click.option(
        "--override",
        metavar="NAME=VALUE",
        type=NamedValue(),
        multiple=True,
        help="A body field that replaces that of every line, as JSON; may be repeated.",
    ),
    click.option("--ignore-unknown", is_flag=True, help="Ignore body fields that do not exist."),
    click.option(
        "--clamp-max-tokens", is_flag=True, help="Shorten max_tokens to what the context holds."
    ),
)
"""How lines become requests."""

selection_options = _together(
    click.option(
        "--limit", metavar="N", type=click.IntRange(min=1), help="Answer the first N lines alone."
    ),
    click.option(
        "--sample",
        metavar="N",
        type=click.IntRange(min=1),
        help="Answer N lines alone, drawn by --seed and their line numbers.",
    ),
    click.option(
        "--shard",
        metavar="I/N",
        help="Answer part I, from 0, of N; auto, auto/N: as Slurm or Kubernetes says.",
    ),
)
"""Which lines are answered."""


executor_options = _together(
    click.option(
        "--executor",
        type=click.Choice(["local", "ray"]),
        default="local",
        show_default=True,
        help="Compute in this process, or by workers of Ray: RAY_ADDRESS, else a local one.",
    ),
    click.option(
        "--workers",
        metavar="N",
        type=click.IntRange(min=1),
        default=1,
        show_default=True,
        help="Workers of --executor ray, each with the model; they share the CPUs.",
    ),
)
"""Where requests are computed."""


class SelectionOptions(TypedDict):
    """What the command line gives of them."""

    limit: int | None
    sample: int | None
    shard: str | None
    seed: int


def selection_of(options: SelectionOptions) -> "Selection":
    """Say which lines are asked for; UsageError if the options do not go together."""
    from aobatch.job.config import Selection, Shard, parse_shard

    limit, sample, shard = options["limit"], options["sample"], options["shard"]
    if limit is not None and sample is not None:
        message = "--limit and --sample are two ways to choose lines; give one of them"
        raise UsageError(message)
    return Selection(
        limit=limit,
        sample=sample,
        seed=options["seed"] if sample is not None else 0,
        shard=parse_shard(shard, os.environ) if shard else Shard(),
    )


F = TypeVar("F", bound=Callable[..., Any])
FILE_OPTION_NAMES = (
    "input_file",
    "output",
    "errors",
    "depfile",
    "column",
    "stream_format",
    "state_dir",
)
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

_FILE_OPTIONS = (
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
    for option in reversed(_FILE_OPTIONS):
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


G = TypeVar("G", bound=Callable[..., Any])
REPORT_OPTION_NAMES = ("prices", "summary", "summary_file", "metrics_file", "log_format", "quiet")


class ReportOptions(TypedDict):
    """What the command line gives."""

    prices: Path | None
    summary: Literal["json"] | None
    summary_file: Path | None
    metrics_file: Path | None
    log_format: LogFormat
    quiet: bool


prices_option = click.option(
    "--prices",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Prices of a million tokens, as TOML, for the cost in the report.",
)


def report_options(command: G) -> G:
    """Add the options to a command."""
    for option in reversed(_REPORT_OPTIONS):
        command = option(command)
    return command


_REPORT_OPTIONS = (
    prices_option,
    click.option(
        "--summary",
        type=click.Choice(["json"]),
        help="End with one line of JSON on standard error, however the run ends.",
    ),
    click.option(
        "--summary-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write the same JSON to a file, however the run ends.",
    ),
    click.option(
        "--metrics-file",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Write metrics for Prometheus' node exporter, however the run ends.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(["text", "json"]),
        default="text",
        show_default=True,
        help="What is said on standard error: text, or a JSON object a line.",
    ),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors."),
)
