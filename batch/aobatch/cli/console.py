"""What people read: messages on standard error, answers on standard output."""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal, TypeAlias

import click

from aobatch.errors import unwritable_output
from aobatch.text import aligned, escape

if TYPE_CHECKING:
    from aobatch.job.report.usage import UsageReport


LAYOUT = "\n\t"
JOINERS = "\u200c\u200d"
"""Hidden characters that words of some languages, and emoji, are written with."""

LogFormat: TypeAlias = Literal["text", "json"]
Level: TypeAlias = Literal["info", "warning", "error", "critical"]
_PREFIXES = {
    "info": "",
    "warning": "aobatch: ",
    "error": "aobatch: error: ",
    "critical": "aobatch: internal error: ",
}


class _Log:
    """How messages are written, for the whole process: threads of a job say something as well."""

    format: LogFormat = "text"


@contextmanager
def log_format(chosen: LogFormat) -> Iterator[None]:
    """Write the messages of the block as lines of text or as JSON objects."""
    before, _Log.format = _Log.format, chosen
    try:
        yield
    finally:
        _Log.format = before


def logs_json() -> bool:
    """Say whether programs read standard error."""
    return _Log.format == "json"


def say(*lines: str, level: Level = "info", event: str = "message", **fields: object) -> None:
    """Write lines to standard error; a reader that went away is no reason to stop a job.

    Whatever a line quotes, it stays one line and cannot steer the terminal. As JSON they are one
    object with an event and its fields.
    """
    if logs_json():
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        entry = {"ts": now, "level": level, "event": event, "message": "\n".join(lines), **fields}
        write_error(json.dumps(entry))
        return
    for index, line in enumerate(lines):
        write_error(escape(line if index else _PREFIXES[level] + line))


def write_error(line: str) -> None:
    """Write a line to standard error as it is."""
    try:
        click.echo(line, err=True, color=color_choice())
    except OSError:
        _drop(2)


def show(text: str, end: str = "\n") -> None:
    """Write text to standard output: as it is into a file or pipe, harmless on a terminal."""
    if sys.stdout is not None and sys.stdout.isatty():
        text = escape(text, kept=LAYOUT + JOINERS)
    with standard_output():
        # Names of files may hold bytes that are no characters.
        click.echo((text + end).encode(errors="surrogateescape"), nl=False)


def show_json(value: object) -> None:
    """Write a value to standard output as indented JSON."""
    import msgspec

    text = json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False)
    # Half a character, as names of files may have, has its own form in JSON.
    show(text.encode(errors="backslashreplace").decode())


def show_table(rows: Iterable[Sequence[str]], sides: str = "<") -> None:
    """Write rows to standard output in columns, of which `sides` says how each is aligned."""
    for line in aligned([[escape(cell) for cell in row] for row in rows], sides):
        show(line)


def color_choice() -> bool | None:
    """Say whether colours are wanted, or leave it to whether a terminal is there."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return os.environ["FORCE_COLOR"] != "0"
    return False if _is_dumb() else None


def shows_bars() -> bool:
    """Say whether a person watches standard error, on a terminal that can draw over a line."""
    is_watched = sys.stderr is not None and sys.stderr.isatty()
    return is_watched and not logs_json() and not _is_dumb()


def _is_dumb() -> bool:
    return os.environ.get("TERM") == "dumb"


def flush_results() -> None:
    """Write out what standard output still holds; StorageError if it does not take that."""
    if sys.stdout is not None:
        with standard_output():
            sys.stdout.flush()


@contextmanager
def standard_output() -> Iterator[None]:
    """Say in one sentence that standard output does not take what the block writes."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        _drop(sys.stdout.fileno())
        raise unwritable_output(error) from error


def _drop(descriptor: int) -> None:
    # What is still buffered would fail once more when the interpreter ends, as exit code 120.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


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
    for kind, line in report_lines(report):
        yield click.style(line, **_STYLES.get(kind, {}))  # type: ignore[arg-type]
