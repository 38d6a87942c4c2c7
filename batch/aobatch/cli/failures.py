"""Exceptions to one sentence on standard error and an exit code: the one place that does it."""

import os
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import click

from aobatch.cli.console import LAYOUT, say
from aobatch.cli.signals import Interrupted, OutOfTime, die_by
from aobatch.errors import AobatchError, BusyError, JobError, StorageError
from aobatch.text import escape

EXIT_CODES = {
    0: "every line was answered, or as many as --max-failures asks for",
    1: "published, but more lines failed than --max-failures allows",
    2: "the command line or a setting is wrong",
    65: "an input is not readable, or the state belongs to another job",
    66: "there is no such input",
    69: "the model is missing or cannot be used",
    70: "a defect of aobatch",
    73: "the output cannot be created",
    74: "the disk is full or failed",
    75: "another run is at work on this job, or the time limit came; run again later",
    130: "stopped by Ctrl-C (SIGINT); run again to go on",
    143: "stopped by SIGTERM; run again to go on",
}
"""What the command's exit codes mean."""


@contextmanager
def reported_failures() -> Iterator[None]:
    """Say what went wrong in the block and leave with its exit code."""
    try:
        yield
    except (click.exceptions.NoArgsIsHelpError, click.exceptions.Exit, click.Abort):
        raise
    except click.UsageError as error:
        # Arguments may be names of files that somebody else chose.
        message = escape(error.format_message(), kept=LAYOUT)
        raise click.UsageError(message, error.ctx) from error
    except BrokenPipeError:
        # Standard error never raises it (see console), so the reader of the results has left.
        die_by(signal.SIGPIPE)
    except OutOfTime as stop:
        say("aobatch: the time limit is reached; what is done is kept, run again")
        raise click.exceptions.Exit(BusyError.exit_code) from stop
    except KeyboardInterrupt as stop:
        number = stop.number if isinstance(stop, Interrupted) else signal.SIGINT
        say(f"aobatch: stopped by {signal.Signals(number).name}; what is done is kept, run again")
        die_by(number)
    except Exception as error:
        _explain(error)
        raise click.exceptions.Exit(exit_code(error)) from error


def exit_code(error: Exception) -> int:
    """Give the exit code that says whose an error is."""
    if isinstance(error, JobError):
        return error.exit_code
    return StorageError.exit_code if isinstance(error, OSError) else JobError.exit_code


def _explain(error: Exception) -> None:
    if isinstance(error, AobatchError | OSError):
        say(f"aobatch: error: {error}")
    else:
        say(
            f"aobatch: internal error: {type(error).__name__}: {error}; please report it with what "
            "the same command prints under AOBATCH_DEBUG=1"
        )
    if os.environ.get("AOBATCH_DEBUG") == "1":
        say(*"".join(traceback.format_exception(error)).split("\n"))
