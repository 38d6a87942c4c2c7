"""`aobatch report`: the usage report of a job again, as a table, JSON, a page or Markdown."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command
from aobatch.cli.console import say, show
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.file_options import state_dir_option
from aobatch.cli.parameters import FileLocation
from aobatch.cli.report_options import prices_option
from aobatch.cli.tables import show_report
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.formats.remote import Location

HELP = """Show the usage report of a job again.

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
    cls=Command, help=HELP, exit_codes=exit_codes({0: "the report is shown"}, 65, 66, 73, 74)
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
