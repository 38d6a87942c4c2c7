"""Options that several commands have."""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, TypedDict

import click

from aobatch.cli.completing import model_names
from aobatch.cli.parameters import ByteSize, NamedValue
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.job.config import Selection

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
