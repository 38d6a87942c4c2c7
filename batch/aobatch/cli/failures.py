"""Exceptions to one sentence on standard error and an exit code: the one place that does it."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias

import click

from aobatch.cli.console import LAYOUT, Level, flush_results, say
from aobatch.cli.signals import Interrupted, OutOfTime, die_by
from aobatch.errors import AobatchError, BusyError, JobError, StorageError
from aobatch.text import escape

Conclusion: TypeAlias = Callable[[int, str | None], int]
"""Has the last word: hears the exit code and why it is not 0, gives the one to leave with."""


@dataclass(frozen=True, slots=True)
class Failure:
    """How a command ends that did not do what it was asked for."""

    exit_code: int
    message: str
    level: Level = "warning"
    signal: int | None = None
    """What the process dies by."""
    is_silent: bool = False


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
        raise escaped(error) from error
    except (Exception, KeyboardInterrupt) as error:
        failure = failure_of(_cause(error))
        if not failure.is_silent:
            say(failure.message, level=failure.level, event="end")
        _trace(error)
        conclude(failure.exit_code, failure.message)
        if failure.signal is not None:
            die_by(failure.signal)
        raise click.exceptions.Exit(failure.exit_code) from error
    if code := conclude(0, None):
        raise click.exceptions.Exit(code)


def failure_of(error: BaseException) -> Failure:
    """Say in one sentence how an exception ends the command."""
    kept = "what is done is kept, run again"
    match error:
        case BrokenPipeError():
            # Standard error never raises it (see console), so the reader of the results has left.
            number = signal.SIGPIPE
            return Failure(128 + number, "the reader left", signal=number, is_silent=True)
        case OutOfTime():
            return Failure(BusyError.exit_code, f"the time limit is reached; {kept}")
        case KeyboardInterrupt():
            stop = error.number if isinstance(error, Interrupted) else signal.SIGINT
            message = f"stopped by {signal.Signals(stop).name}; {kept}"
            return Failure(128 + stop, message, signal=stop)
        case AobatchError() | OSError():
            return Failure(exit_code(error), str(error), "error")
    message = (
        f"{type(error).__name__}: {error}; please report it with what the same command prints "
        "under AOBATCH_DEBUG=1"
    )
    return Failure(JobError.exit_code, message, "critical")


def escaped(error: click.UsageError) -> click.UsageError:
    """Give a usage error that quotes nothing a terminal obeys."""
    # Arguments may be names of files that somebody else chose.
    return click.UsageError(escape(error.format_message(), kept=LAYOUT), error.ctx)


def exit_code(error: Exception) -> int:
    """Give the exit code that says whose an error is."""
    if isinstance(error, JobError):
        return error.exit_code
    return StorageError.exit_code if isinstance(error, OSError) else JobError.exit_code


def _cause(error: BaseException) -> BaseException:
    """Give the error, or that of standard output where it is that which failed."""
    if isinstance(error, OSError | StorageError) and not isinstance(error, BrokenPipeError):
        try:
            flush_results()
        except (StorageError, BrokenPipeError) as unwritten:
            return unwritten
    return error


def _trace(error: BaseException) -> None:
    if isinstance(error, Exception) and os.environ.get("AOBATCH_DEBUG") == "1":
        say(*"".join(traceback.format_exception(error)).split("\n"), event="traceback")
