"""What people read: messages on standard error, answers on standard output."""

import os
import sys

import click

from aobatch.text import escape

LAYOUT = "\n\t"
JOINERS = "\u200c\u200d"
"""Hidden characters that words of some languages, and emoji, are written with."""


def say(*lines: str) -> None:
    """Write lines to standard error; a reader that went away is no reason to stop a job.

    Whatever a line quotes, it stays one line and cannot steer the terminal.
    """
    try:
        for line in lines:
            click.echo(escape(line), err=True)
    except OSError:
        _drop_standard_error()


def show(text: str, end: str = "\n") -> None:
    """Write text to standard output: as it is into a file or pipe, harmless on a terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = escape(text, kept=LAYOUT + JOINERS)
    # Names of files may hold bytes that are no characters.
    click.echo((text + end).encode(errors="surrogateescape"), nl=False)


def is_terminal() -> bool:
    """Say whether a person watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def _drop_standard_error() -> None:
    # What is still buffered would fail once more when the interpreter ends, as exit code 120.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
