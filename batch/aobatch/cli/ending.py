"""How commands end: stopped by signals or time, failed with a sentence, told in files."""

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn, TypeAlias

import click

from aobatch.cli.console import LAYOUT, Level, flush_results, logs_json, say, write_error
from aobatch.errors import AobatchError, BusyError, JobError, StorageError
from aobatch.files import check_creatable
from aobatch.text import escape

if TYPE_CHECKING:
    from aobatch.job.config import JobConfig
    from aobatch.job.paths import Place
    from aobatch.job.report.summary import Summary
    from aobatch.job.report.usage import UsageReport
    from aobatch.job.validation import LineCounts


STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
SIGNALLED = 128
"""Added to a signal's number: the exit code that shells give who dies by it."""
READER_LEFT = SIGNALLED + signal.SIGPIPE
RETRY_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """The first signal, its argument; it unwinds the job, which keeps its results on the way."""


class OutOfTime(KeyboardInterrupt):
    """The time limit; it unwinds the job as a signal does."""


@contextmanager
def limited_time(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, never if None."""
    if seconds is None:
        yield
        return
    handler = signal.signal(signal.SIGALRM, lambda _, frame: _stop(OutOfTime(), frame))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first signal in the block into Interrupted; a second one kills."""
    handlers, hook = {number: signal.getsignal(number) for number in STOPPING}, sys.unraisablehook
    # nohup and a shell's background jobs ignore signals on purpose.
    caught = [number for number in STOPPING if handlers[number] not in {signal.SIG_IGN, None}]
    for number in caught:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, handlers[number])
        sys.unraisablehook = hook


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Another signal that came before this one was obeyed would be told in a traceback, not obeyed.
    sys.unraisablehook = lambda _: None
    for other in STOPPING:
        if signal.getsignal(other) == _interrupt:
            signal.signal(other, signal.SIG_DFL)
    _stop(Interrupted(number), frame)


def _stop(reason: KeyboardInterrupt, frame: FrameType | None) -> None:
    """Raise a reason to stop, once nothing is being imported."""
    if _is_importing(frame):
        # An extension in C++ that meets an exception while it is imported ends the process, or
        # hides the exception behind another one.
        signal.signal(signal.SIGALRM, lambda _, frame: _stop(reason, frame))
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        return
    # The limit is not to break into the clean stop.
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise reason


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def die_by(number: int) -> NoReturn:
    """End the process by a signal, so that shells and make see what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(SIGNALLED + number)


Conclusion: TypeAlias = Callable[[int, str | None], int]
"""Has the last word: hears the exit code and why it is not 0, gives the one to leave with."""


@contextmanager
def reported_failures(conclude: Conclusion = lambda code, _: code) -> Iterator[None]:
    """Say what went wrong in the block and leave with its exit code."""
    try:
        yield
        flush_results()
    except (click.exceptions.NoArgsIsHelpError, click.Abort):
        raise
    except click.exceptions.Exit as end:
        conclude(end.exit_code, None)
        raise
    except click.UsageError as error:
        conclude(error.exit_code, _tell_usage(error))
        raise click.exceptions.Exit(error.exit_code) from error
    except (Exception, KeyboardInterrupt) as error:
        code, message, level = failure_of(_cause(error))
        if code != READER_LEFT:
            say(message, level=level, event="end")
        if isinstance(error, Exception) and os.environ.get("AOBATCH_DEBUG") == "1":
            say(*"".join(traceback.format_exception(error)).split("\n"), event="traceback")
        conclude(code, message)
        if code > SIGNALLED:
            die_by(code - SIGNALLED)
        raise click.exceptions.Exit(code) from error
    if code := conclude(0, None):
        raise click.exceptions.Exit(code)


def _tell_usage(error: click.UsageError) -> str:
    """Show what is wrong with a command line; give the sentence."""
    reason = error.format_message()
    if logs_json():
        say(reason, level="error", event="end")
    else:
        # Arguments may be names of files that somebody else chose.
        click.UsageError(escape(reason, kept=LAYOUT), error.ctx).show()
    return reason


def failure_of(error: BaseException) -> tuple[int, str, Level]:
    """Give the exit code and the one sentence by which an exception ends the command."""
    kept = "what is done is kept, run again"
    match error:
        case BrokenPipeError():
            # Standard error never raises it (see console), so the reader of the results has left.
            return READER_LEFT, "the reader left", "warning"
        case OutOfTime():
            return BusyError.exit_code, f"the time limit is reached; {kept}", "warning"
        case KeyboardInterrupt():
            stop = error.args[0] if isinstance(error, Interrupted) else signal.SIGINT
            return SIGNALLED + stop, f"stopped by {signal.Signals(stop).name}; {kept}", "warning"
        case AobatchError() | OSError():
            kind = StorageError if isinstance(error, OSError) else JobError
            return getattr(error, "exit_code", kind.exit_code), str(error), "error"
    message = (
        f"{type(error).__name__}: {error}; please report it with what the same command prints "
        "under AOBATCH_DEBUG=1"
    )
    return JobError.exit_code, message, "critical"


def _cause(error: BaseException) -> BaseException:
    """Give the error, or that of standard output where it is that which failed."""
    if isinstance(error, OSError | StorageError) and not isinstance(error, BrokenPipeError):
        try:
            flush_results()
        except (StorageError, BrokenPipeError) as unwritten:
            return unwritten
    return error


SUMMARY, METRICS = "--summary-file", "--metrics-file"


@dataclass(slots=True)
class Ending:
    """Gathers what is known of a run, and tells it at the end."""

    files: dict[str, Path]
    """Where it is told, by the options that name it."""
    others: "list[Place]"
    """What else the run reads and writes, as far as that is known."""
    writes_line: bool
    jobs: "dict[Path, UsageReport | None]" = field(default_factory=dict)
    """The report of each output that the run is to write, once it is published."""
    message: str | None = None
    """Why the exit code is not 0, where no exception says it."""
    is_dry: bool = False
    """Whether the run computes nothing: it then writes no files either."""
    checked: "LineCounts | None" = None
    """What a dry run has found."""
    knows_jobs: bool = False
    """Whether the files were held against those of the jobs."""

    def check(self, jobs: "Sequence[JobConfig]" = ()) -> None:
        """Refuse, before anything is computed, what could not be written at the end.

        A file that is something else too, of these jobs or otherwise, is refused for good.
        """
        from aobatch.job.paths import Place, check_places, places_of

        places = [*self.others, *(place for job in jobs for place in places_of(job))]
        check_places(places)
        failures = list[JobError]()
        for option, path in [*self.files.items()]:
            place = Place(path, option, option)
            try:
                check_places([*places, place])
                if jobs:
                    check_creatable(path, option, or_device=True)
                if option == METRICS:
                    from aobatch.job.report.summary import check_metrics_extra

                    check_metrics_extra()
            except JobError as error:
                del self.files[option]
                failures.append(error)
            places.append(place)
        for failure in failures:
            raise failure
        self.knows_jobs = bool(jobs)

    def conclude(self, exit_code: int, message: str | None) -> int:
        """Write files, then the last line of all; give the exit code that is right by then."""
        if not self.files and not self.writes_line:
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
        from aobatch.job.paths import may_be_of_a_job
        from aobatch.job.report.summary import summary_line, write_anywhere, write_metrics

        if self.is_dry:
            return
        for option, path in self.files.items():
            if not self.knows_jobs and may_be_of_a_job(path):
                continue
            if option == SUMMARY:
                write_anywhere(path, f"{summary_line(summary)}\n".encode())
            else:
                (report,) = self.jobs.values() if len(self.jobs) == 1 else [None]
                write_metrics(path, summary, report)
