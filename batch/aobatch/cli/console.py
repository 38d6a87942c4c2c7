"""What people read, on standard error."""

import os
import sys

import click


def say(message: str) -> None:
    """Write a line to standard error; a reader that went away is no reason to stop a job."""
    try:
        click.echo(message, err=True)
    except OSError:
        _drop_standard_error()


def is_terminal() -> bool:
    """Say whether a person watches standard error."""
    return sys.stderr is not None and sys.stderr.isatty()


def _drop_standard_error() -> None:
    # What is still buffered would fail once more when the interpreter ends, as exit code 120.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
