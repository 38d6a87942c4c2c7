"""Options of commands as typed fields, from which click's options, the help and settings follow.

A command takes a class of options; its base classes are what it has in common with others. A field
without a default is an argument, one made by `option` an option.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from types import UnionType
from typing import (
    TYPE_CHECKING,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    cast,
    dataclass_transform,
    get_args,
    get_origin,
)

import click

from aobatch.cli.values import (
    AT_LEAST_1,
    CHAT_FORMAT,
    COLUMN,
    FIELD,
    LOCATION,
    NAMES,
    SIZE,
    chat_formats,
    model_names,
)
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.formats.remote import Location
    from aobatch.formats.template import Template
    from aobatch.job.config import JobConfig, Selection
    from aobatch.job.report.usage import Prices
    from aobatch.runners import RunnerConfig

T = TypeVar("T")
GROUPS = ("", "Files", "Lines", "Requests", "Sampling", "Machine", "Report")
"""Titles of options in the help of `aobatch run`, and their order in every help."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a command line, with variables and settings, gives a command."""

    group: ClassVar[str]
    """The title of the options that a class adds, where a help has titles."""


AnyOptions = TypeVar("AnyOptions", bound=Options)


@dataclass_transform(frozen_default=True, kw_only_default=True)
def options(group: str = "") -> Callable[[type[AnyOptions]], type[AnyOptions]]:
    """Make a class one of options, under a title."""

    def decorate(table: type[AnyOptions]) -> type[AnyOptions]:
        table.group = group
        # What is not generated costs no time at the start of each command.
        return dataclass(frozen=True, kw_only=True, eq=False, repr=False)(table)

    return decorate


def option(default: T | str, text: str, *names: str, **attributes: object) -> T:
    """Declare an option by its help and attributes of click; it is --the-name-of-the-field.

    Names add a short one, or say another long one. How a value is read follows from the type of
    the field unless an attribute says it. A default may be text, as on the command line.
    """
    return cast("T", field(default=default, metadata={"names": names, "help": text, **attributes}))


class Option(click.Option):
    """An option that knows its title, and by which variable it was given."""

    group = ""

    def handle_parse_result(
        self, ctx: click.Context, opts: Mapping[str, object], args: list[str]
    ) -> tuple[object, list[str]]:
        """Read a value; one that is wrong is told by the name of its variable."""
        try:
            return super().handle_parse_result(ctx, opts, args)
        except click.BadParameter as error:
            source = ctx.get_parameter_source(self.name or "")
            if source is click.core.ParameterSource.ENVIRONMENT:
                variable = f"{ctx.auto_envvar_prefix}_{self.name}".upper()
                error.param_hint = f"the variable {variable}"
            raise


def parameters(table: type[Options]) -> list[click.Parameter]:
    """Give what click is to read for a class of options, in the order of their groups."""
    made = []
    for item in fields(table):
        owner = next(c for c in table.__mro__ if item.name in vars(c).get("__annotations__", ()))
        made.append(_parameter(item, vars(owner)["group"]))
    return sorted(made, key=lambda parameter: GROUPS.index(getattr(parameter, "group", "")))


def _parameter(item: Field[object], group: str) -> click.Parameter:
    attributes = {**_read_as(item.type), **item.metadata}
    if "help" not in attributes:
        return click.Argument([item.name], **attributes)
    names, group = attributes.pop("names"), attributes.pop("group", group)
    if not any(name.startswith("--") for name in names):
        names = (*names, f"--{item.name.replace('_', '-')}")
    if isinstance(attributes.get("type"), click.Path):
        attributes.setdefault("metavar", "FILE")
    if not attributes.get("required"):
        attributes |= {"default": item.default, "multiple": item.default == ()}
        attributes["show_default"] = item.default not in {None, ()} and item.default is not False
    made = Option([*names, item.name], **attributes)
    made.group = group
    return made


def _read_as(kind: object) -> dict[str, object]:
    if get_origin(kind) in {Union, UnionType}:  # of something and None
        kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return {"type": click.Choice(get_args(kind))}
    if kind is Path:
        return {"type": click.Path(path_type=Path)}
    return {"is_flag": True} if kind is bool else {"type": kind}


@options("Report")
class JsonOption(Options):
    """For commands whose tables programs get as JSON."""

    as_json: bool = option(False, "Print everything as one JSON object.", "--json")


@options("Report")
class QuietOption(Options):
    """For commands that say what they have done."""

    quiet: bool = option(False, "Say nothing but errors.", "-q")


@options("Report")
class PricesOption(Options):
    """For commands that report usage."""

    prices: Path | None = option(
        None, "Prices of a million tokens, as TOML, for the cost in the report."
    )

    def known_prices(self) -> "Prices | None":
        """Read the prices, if there are any."""
        from aobatch.job.report.usage import read_prices

        return read_prices(self.prices) if self.prices else None


@options("Files")
class StateOption(Options):
    """For commands that look for the state of a job."""

    state_dir: Path | None = option(
        None,
        "Where the state of a job is whose OUT is a URI. Default: aobatch-state.",
        metavar="DIR",
    )


@options("Machine")
class ThreadsOption(Options):
    """For commands that run a model."""

    threads: int | None = option(None, "CPU threads. Default: all cores.", type=AT_LEAST_1)

    @property
    def num_threads(self) -> int:
        """How many threads compute."""
        from aobatch.runners import num_cores

        return self.threads or num_cores()


@options("Machine")
class RunnerOptions(ThreadsOption):
    """How a model is run."""

    kernels: Literal["auto", "fused", "stock"] = option(
        "auto", "Fused operators, built once by a C compiler, or ONNX Runtime's alone."
    )
    kv_cache_dtype: Literal["int8", "bf16", "fp32"] | None = option(
        None, "Type of keys and values. Default: int8 with fused operators, else fp32."
    )

    chat_format: str | None = option(
        None,
        "How chats are written for the model. Default: as the model's own description says.",
        metavar="NAME",
        type=CHAT_FORMAT,
        shell_complete=chat_formats,
        group="Requests",
    )

    def runner_config(self) -> "RunnerConfig":
        """Say how the model's sessions are opened."""
        from aobatch.runners import RunnerConfig

        return RunnerConfig(self.num_threads, self.kernels, self.kv_cache_dtype)


@options("Machine")
class EngineOptions(RunnerOptions):
    """How many sequences are computed together, and what they may take."""

    max_num_seqs: int = option(128, "Sequences decoded together.", type=AT_LEAST_1)
    kv_cache_bytes: int | None = option(
        None, "Memory for keys and values. Default: half of what is free.", type=SIZE
    )

    def engine_config(self) -> "EngineConfig":
        """Say how the engine is configured by these options alone."""
        from aobatch.engine.config import EngineConfig
        from aobatch.executors.local import default_kv_cache_bytes

        size = self.kv_cache_bytes or default_kv_cache_bytes()
        return EngineConfig(
            max_num_seqs=self.max_num_seqs, kv_cache_bytes=size, chat_format=self.chat_format
        )


def _with_named(
    ctx: click.Context, argument: click.Parameter, inputs: "tuple[Location, ...]"
) -> "tuple[Location, ...]":
    """Put what stands behind -i ahead of the other inputs; there must be one."""
    found: tuple[Location, ...] = ctx.params.get("input_file", ()) + inputs
    if not found and not ctx.resilient_parsing:
        raise click.MissingParameter(ctx=ctx, param=argument)
    return found


STREAM_FORMATS = (
    *("jsonl", "jsonl.gz", "jsonl.zst", "jsonl.bz2", "jsonl.lz4"),
    *("parquet", "csv", "csv.gz", "csv.zst", "tsv"),
)
"""The suffixes that `formats` knows, which takes longer to load."""


@options("Files")
class InputOptions(Options):
    """The files of a job."""

    inputs: "tuple[Location, ...]" = field(
        metadata={"metavar": "IN...", "nargs": -1, "type": LOCATION, "callback": _with_named}
    )
    input_file: "tuple[Location, ...]" = option(
        (),
        "An input, as vLLM's run-batch names it; may be repeated.",
        "-i",
        metavar="IN",
        type=LOCATION,
        is_eager=True,
    )
    column: tuple[tuple[str, str], ...] = option(
        (), "The column of tables that gives a field; may be repeated.", type=COLUMN
    )
    keep: tuple[str, ...] | None = option(
        None,
        "Columns or fields of the inputs that go along into the output: A,B or all.",
        metavar="NAMES",
        type=NAMES,
    )
    stream_format: str | None = option(
        None,
        "What standard input and output are, where IN or OUT is -. Default: jsonl.",
        "--format",
        type=click.Choice(STREAM_FORMATS),
    )


@options("Lines")
class LineOptions(Options):
    """Which lines are answered."""

    limit: int | None = option(
        None, "Answer the first N lines alone.", metavar="N", type=AT_LEAST_1
    )
    sample: int | None = option(
        None,
        "Answer N lines alone, drawn by --seed and their line numbers.",
        metavar="N",
        type=AT_LEAST_1,
    )
    shard: str | None = option(
        None,
        "Answer part I, from 0, of N; auto, auto/N: as Slurm or Kubernetes says.",
        metavar="I/N",
    )
    seed: int = option(0, "Seed of --sample.")

    def selection(self) -> "Selection":
        """Say which lines are asked for; UsageError if the options do not go together."""
        from aobatch.job.config import Selection, Shard, parse_shard

        if self.limit is not None and self.sample is not None:
            message = "--limit and --sample are two ways to choose lines; give one of them"
            raise UsageError(message)
        return Selection(
            limit=self.limit,
            sample=self.sample,
            seed=self.seed if self.sample is not None else 0,
            shard=parse_shard(self.shard, os.environ) if self.shard else Shard(),
        )


@options("Requests")
class RequestOptions(Options):
    """How lines become requests."""

    model: str | None = option(
        None, "The model of lines that name none.", "-m", metavar="NAME", shell_complete=model_names
    )
    default: tuple[tuple[str, object], ...] = option(
        (),
        "A body field for lines that leave it out, as JSON, or @FILE; may be repeated.",
        type=FIELD,
    )
    override: tuple[tuple[str, object], ...] = option(
        (),
        "A body field that replaces that of every line, as JSON, or @FILE; may be repeated.",
        type=FIELD,
    )
    template: str | None = option(
        None,
        "Write each row's prompt so, with {NAME} for its columns or fields; @FILE reads it.",
        metavar="TEXT",
    )
    chat: bool = option(False, "What --template writes is what a user says in a chat.")
    system: str | None = option(
        None, "A system message ahead of it; only with --chat.", metavar="TEXT"
    )
    ignore_unknown: bool = option(False, "Ignore body fields that do not exist.")
    clamp_max_tokens: bool = option(False, "Shorten max_tokens to what the context holds.")

    def parsed_template(self) -> "Template | None":
        """Read and parse the template; UsageError says what is wrong with it."""
        from aobatch.formats.template import parse_template

        if self.template is None:
            if self.chat or self.system is not None:
                message = "--chat and --system are for rows that --template makes requests of"
                raise UsageError(message)
            return None
        if self.system is not None and not self.chat:
            message = "--system is for chats; add --chat"
            raise UsageError(message)
        text = _content_of(self.template[1:]) if self.template[:1] == "@" else self.template
        return parse_template(text, is_chat=self.chat, system=self.system)


def _content_of(name: str) -> str:
    """Read the file of a template; its last line may end, as editors end it."""
    try:
        return Path(name).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        message = f"--template @{name} cannot be read: {error}"
        raise UsageError(message) from error


@options()
class JobOptions(EngineOptions, RequestOptions, LineOptions, InputOptions):
    """A job, without what is written."""

    def job_config(
        self, output: "Location | None" = None, errors: "Location | None" = None
    ) -> "JobConfig":
        """Say what is read and answered; UsageError if the options do not go together.

        Files that are written are no inputs, whatever pattern finds them.
        """
        from aobatch.job.config import STREAM, JobConfig
        from aobatch.job.paths import expand_inputs

        if self.stream_format is not None and STREAM not in {*self.inputs, output}:
            message = "--format is for an IN or OUT that is -; of files, their names say it"
            raise UsageError(message)
        columns = dict(self.column)
        if len(columns) != len(self.column):
            message = "a field was given two columns; give each --column FIELD once"
            raise UsageError(message)
        written = [path for path in (output, errors) if path is not None]
        return JobConfig(
            inputs=expand_inputs(self.inputs, written),
            output=STREAM,
            model=self.model,
            defaults=dict(self.default),
            overrides=dict(self.override),
            selection=self.selection(),
            columns=columns,
            template=self.parsed_template(),
            keep=self.keep or (),
            stream_format=self.stream_format or "jsonl",
            ignore_unknown=self.ignore_unknown,
        )
