"""`aobatch merge`: the outputs of all shards of a job as one."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command, exit_codes
from aobatch.cli.console import say, say_report, show, show_report
from aobatch.cli.ending import interruptible
from aobatch.cli.options import ANY_PATH, FileLocation, prices_option, state_dir_option
from aobatch.errors import UsageError
from aobatch.text import duration

if TYPE_CHECKING:
    from aobatch.formats.remote import Location
    from aobatch.job.status import JobStatus


STATUS_HELP = """Say how far a running or interrupted job is.

\b
Examples:
  aobatch status jobs/poems.out.jsonl
  watch aobatch status answers.jsonl
  aobatch status answers.jsonl --json | jq .answered

OUT is the output of the job. A run that is at work is not disturbed.
"""


@click.command(
    cls=Command, help=STATUS_HELP, exit_codes=exit_codes({0: "there is such a job"}, 65, 66)
)
@click.argument("output", metavar="OUT", type=FileLocation())
@state_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def status(output: "Location", state_dir: Path | None, *, as_json: bool) -> None:
    """Say how far a job is."""
    import msgspec

    from aobatch.job.config import local_path
    from aobatch.job.status import job_status

    found = job_status(local_path(output, state_dir))
    if as_json:
        show(msgspec.json.encode(found).decode())
    else:
        show(_sentence(output, found))


def _sentence(output: "Location", found: "JobStatus") -> str:
    share = f"{found.answered:,} of {found.lines:,} lines answered"
    failed = f", {found.failed:,} of them failed" if found.failed else ""
    tokens = (
        f", {found.completion_tokens:,} new tokens in {duration(found.seconds, is_exact=False)}"
    )
    if found.state == "finished":
        return f"{output} is finished: {share}{failed}{tokens}"
    left = found.seconds_left
    rest = "" if left is None else f", about {duration(left, is_exact=False)} to go"
    if found.state == "running":
        return f"{output} is under way by {found.holder}: {share}{failed}{tokens}{rest}"
    return f"{output} was interrupted; run the same command again: {share}{failed}{tokens}{rest}"


REPORT_HELP = """Show the usage report of a job again.

\b
Examples:
  aobatch report answers.jsonl
  aobatch report answers.jsonl --html report.html --prices prices.toml
  aobatch report answers.jsonl --json | jq .usage.total_tokens
  aobatch report answers.jsonl --markdown - >> $GITHUB_STEP_SUMMARY

OUT is the output of the job. That of an unfinished job says what it has so far. FILE may be - for
standard output; behind --json it may be left out.
"""

STREAM = Path("-")


@click.command(
    cls=Command, help=REPORT_HELP, exit_codes=exit_codes({0: "the report is shown"}, 65, 66, 73, 74)
)
@click.argument("output", metavar="OUT", type=FileLocation())
@state_dir_option
@click.option(
    "--json",
    "json_path",
    metavar="[FILE]",
    is_flag=False,
    flag_value=STREAM,
    type=click.Path(path_type=Path),
    help="Everything, for programs.",
)
@click.option(
    "--html",
    "html_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="One page with plots that needs no network (extra [report]).",
)
@click.option(
    "--markdown",
    "markdown_path",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="For comments and wikis.",
)
@prices_option
def report(
    output: "Location",
    state_dir: Path | None,
    json_path: Path | None,
    html_path: Path | None,
    markdown_path: Path | None,
    prices: Path | None,
) -> None:
    """Show the usage report of a job again."""
    from aobatch.job.config import local_path
    from aobatch.job.report.facts import past_report, with_cost
    from aobatch.job.report.page import report_page
    from aobatch.job.report.text import report_markdown
    from aobatch.job.report.usage import read_prices, report_json

    if [json_path, html_path, markdown_path].count(STREAM) > 1:
        message = "only one form of the report fits on standard output; name files for the others"
        raise UsageError(message)
    found = with_cost(
        past_report(local_path(output, state_dir)), read_prices(prices) if prices else None
    )
    if json_path is not None:
        _put(json_path, report_json(found))
    if html_path is not None:
        _put(html_path, report_page(found, output.name))
    if markdown_path is not None:
        _put(markdown_path, report_markdown(found, output.name).encode())
    if json_path is html_path is markdown_path is None:
        show_report(found)


def _put(path: Path, content: bytes) -> None:
    """Write a form of the report where it belongs."""
    from aobatch.job.report.summary import write_anywhere

    if path == STREAM:
        show(content.decode(), end="")
        return
    write_anywhere(path, content)
    say(f"report in {path}")


MERGE_HELP = """Put the outputs of all shards of a job together.

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
    help=MERGE_HELP,
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
