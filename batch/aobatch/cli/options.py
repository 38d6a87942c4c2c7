"""Options that several commands have."""

import os

import click


def _all_cores(_ctx: click.Context, _param: click.Parameter, threads: int | None) -> int:
    return threads or len(os.sched_getaffinity(0))


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
