"""The usage report on a terminal, in colours where they are wanted."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from aobatch.cli.console import color_choice, logs_json, say, standard_output, write_error

if TYPE_CHECKING:
    from aobatch.job.report.usage import UsageReport

_STYLES: dict[str, dict[str, object]] = {
    "header": {"dim": True},
    "total": {"bold": True},
    "failure": {"fg": "red"},
}


def say_report(report: "UsageReport") -> None:
    """Write the table to standard error; programs that read it get the numbers alone."""
    if logs_json():
        usage = report.usage
        say(
            "finished",
            event="report",
            lines=report.requests.total,
            failed=report.requests.failed,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            tokens_per_second=report.tokens_per_second,
        )
        return
    for line in _painted(report):
        write_error(line)


def show_report(report: "UsageReport") -> None:
    """Write the table to standard output."""
    for line in _painted(report):
        with standard_output():
            click.echo(line, color=color_choice())


def _painted(report: "UsageReport") -> Iterator[str]:
    from aobatch.job.report.text import report_lines

    # Names in the lines are escaped; escaping them once more would take the colours away.
    for line in report_lines(report):
        yield click.style(line.text, **_STYLES.get(line.kind, {}))  # type: ignore[arg-type]
