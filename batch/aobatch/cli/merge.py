"""`aobatch merge`: the outputs of all shards of a job as one."""

from pathlib import Path

import click

from aobatch.cli.command import Command
from aobatch.cli.console import say
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.parameters import ANY_PATH
from aobatch.cli.report_options import prices_option
from aobatch.cli.signals import interruptible
from aobatch.cli.tables import say_report

HELP = """Put the outputs of all shards of a job together.

\b
Examples:
  aobatch run all.jsonl --shard 0/2 && aobatch run all.jsonl --shard 1/2
  aobatch merge all.out-*-of-00002.jsonl -o all.out.jsonl

The output is, byte for byte, that of the job run as a whole at the same time (the responses carry
the time at which the job began; SOURCE_DATE_EPOCH sets it). The state folders of the shards must
stand beside them. Usage, reports and event files are put together as well.
"""


@click.command(
    cls=Command,
    help=HELP,
    exit_codes=exit_codes(
        {0: "the output is published", 65: "a shard is missing, unfinished or of another job"},
        *(66, 73, 74, 75, 130, 143),
    ),
)
@click.argument(
    "shards",
    metavar="SHARD...",
    nargs=-1,
    required=True,
    type=ANY_PATH,
)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    required=True,
    type=ANY_PATH,
    help="Where the answers go.",
)
@prices_option
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but errors.")
def merge(shards: tuple[Path, ...], output: Path, prices: Path | None, *, quiet: bool) -> None:
    """Put the outputs of all shards of a job together."""
    from aobatch.job.merge import merge_shards
    from aobatch.job.report.usage import read_prices

    with interruptible():
        report = merge_shards(shards, output, read_prices(prices) if prices else None)
    if not quiet:
        say_report(report)
        say(f"answers in {output}, report in {output}.usage.json")
