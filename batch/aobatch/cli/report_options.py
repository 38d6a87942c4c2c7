"""Options of `aobatch run` for its report and for those who read how it ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypedDict, TypeVar

import click

from aobatch.cli.console import LogFormat

F = TypeVar("F", bound=Callable[..., Any])
NAMES = ("prices", "summary", "summary_file", "metrics_file", "log_format", "quiet")


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


def report_options(command: F) -> F:
    """Add the options to a command."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


_OPTIONS = (
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
