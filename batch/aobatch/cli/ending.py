"""What a run leaves to those who did not watch it, whichever way it ends."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from aobatch.cli.console import say, write_error
from aobatch.cli.failures import escaped
from aobatch.cli.report_options import ReportOptions
from aobatch.errors import JobError, UsageError

if TYPE_CHECKING:
    from aobatch.job.report.summary import Summary
    from aobatch.job.report.usage import UsageReport
    from aobatch.job.validation import LineCounts


@dataclass(slots=True)
class Ending:
    """Gathers what is known of a run, and tells it at the end."""

    summary_file: Path | None
    metrics_file: Path | None
    writes_line: bool
    jobs: "dict[Path, UsageReport | None]" = field(default_factory=dict)
    """The report of each output that the run is to write, once it is published."""
    message: str | None = None
    """Why the exit code is not 0, where no exception says it."""
    is_dry: bool = False
    """Whether the run computes nothing: it then writes no files either."""
    checked: "LineCounts | None" = None
    """What a dry run has found."""

    @classmethod
    def of(cls, options: ReportOptions, *, is_dry: bool = False) -> "Ending":
        """Take in what the options ask for."""
        writes_line = options["summary"] == "json"
        files = options["summary_file"], options["metrics_file"]
        return cls(*files, writes_line, is_dry=is_dry)

    def check(self) -> None:
        """Refuse, before anything is computed, what could not be written at the end."""
        for name, path in (
            ("--summary-file", self.summary_file),
            ("--metrics-file", self.metrics_file),
        ):
            if path is not None and not path.parent.is_dir():
                self.summary_file = None if path == self.summary_file else self.summary_file
                self.metrics_file = None if path == self.metrics_file else self.metrics_file
                message = f"folder {path.parent} of {name} does not exist; create it"
                raise UsageError(message)
        if self.metrics_file is not None:
            from aobatch.job.report.summary import check_metrics_extra

            check_metrics_extra()

    def conclude(self, exit_code: int, message: str | None) -> int:
        """Write files, then the last line of all; give the exit code that is right by then."""
        if self.summary_file is None and self.metrics_file is None and not self.writes_line:
            return exit_code
        from aobatch.job.report.summary import summary_line

        reason = message or self.message
        try:
            self._write(self._summary(exit_code, reason))
        except JobError as error:
            if str(error) != reason:
                say(str(error), level="error", event="end")
            exit_code, reason = exit_code or error.exit_code, reason or str(error)
        if self.writes_line:
            write_error(summary_line(self._summary(exit_code, reason)))
        return exit_code

    def _summary(self, exit_code: int, reason: str | None) -> "Summary":
        from aobatch.job.report.summary import summarise_all, with_checked

        summary = summarise_all(exit_code, reason, list(self.jobs.items()))
        return summary if self.checked is None else with_checked(summary, self.checked)

    def _write(self, summary: "Summary") -> None:
        from aobatch.job.report.summary import summary_line, write_anywhere

        if self.is_dry:
            return
        if self.summary_file is not None:
            write_anywhere(self.summary_file, f"{summary_line(summary)}\n".encode())
        if self.metrics_file is not None:
            from aobatch.job.report.summary import check_metrics_extra, write_metrics

            check_metrics_extra()
            (report,) = self.jobs.values() if len(self.jobs) == 1 else [None]
            write_metrics(self.metrics_file, summary, report)


def conclude_usage_error(arguments: Sequence[str], error: click.UsageError) -> NoReturn:
    """Say what is wrong with a command line that click refuses, and tell it as any other end.

    Exit says with which code to leave. The options are looked for by hand, since nothing was
    parsed.
    """
    summary_file, metrics_file, summary = (
        _value(arguments, name) for name in ("--summary-file", "--metrics-file", "--summary")
    )
    files = _path(summary_file), _path(metrics_file)
    ending = Ending(*files, summary == "json", is_dry="--dry-run" in arguments)
    escaped(error).show()
    ending.conclude(error.exit_code, error.format_message())
    raise click.exceptions.Exit(error.exit_code) from error


def _value(arguments: Sequence[str], name: str) -> str | None:
    """Give the value of an option of the command line or of its variable."""
    for index, argument in enumerate(arguments):
        if argument == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith(f"{name}="):
            return argument.removeprefix(f"{name}=")
    return os.environ.get(f"AOBATCH_RUN{name.removeprefix('-').replace('-', '_').upper()}")


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None
