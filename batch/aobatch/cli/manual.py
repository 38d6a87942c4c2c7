"""The manual page, written from the commands themselves: `python -m aobatch.cli.manual`."""

import inspect
import os
import time
from collections.abc import Iterator
from importlib.metadata import version

import click

from aobatch.cli.command import EXIT_CODES
from aobatch.cli.console import show
from aobatch.cli.main import aobatch
from aobatch.cli.settings import leaves

ENVIRONMENT = {
    "AOBATCH_MODELS": "The folder of converted models.",
    "AOBATCH_CONFIG": "The settings file, as --config names it.",
    "AOBATCH_COMMAND_OPTION": "An option of a command, such as AOBATCH_RUN_SEED.",
    "AOBATCH_DEBUG": "With 1, errors come with their traceback.",
    "SOURCE_DATE_EPOCH": "The time, in Unix seconds, that responses carry as created.",
    "XDG_CACHE_HOME": "The folder, instead of ~/.cache, for models and measured speeds.",
}
FILES = {
    "OUT.usage.json": "The usage report of a job.",
    "OUT.stream/": "The events of lines that ask for a stream.",
    "OUT.aobatch/": "The state of a job; needed to go on.",
    "aobatch.toml, pyproject.toml": "Settings of the working folder.",
}


def manual_page() -> str:
    """Give the page of all commands in the language of man."""
    root = click.Context(aobatch, info_name="aobatch", **aobatch.context_settings)
    return "\n".join(_lines(root)) + "\n"


def _lines(root: click.Context) -> Iterator[str]:
    # A build at another time is to give the same page.
    day = time.gmtime(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())))
    yield f'.TH AOBATCH 1 "{time.strftime("%Y-%m-%d", day)}" "aobatch {version("aobatch")}"'
    yield from (".SH NAME", r"aobatch \- offline batch text completion with a local model")
    yield from (".SH SYNOPSIS", r"\fBaobatch\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGS\fR]...")
    yield ".SH DESCRIPTION"
    yield from _help(aobatch)
    yield ".SH OPTIONS"
    yield from _options(root)
    yield ".SH COMMANDS"
    for ctx in leaves(root):
        yield f".SS {_plain(ctx.command_path)}"
        yield rf"\fB{_plain(ctx.command_path)}\fR {_plain(' '.join(_pieces(ctx)))}"
        yield ".PP"
        yield from _help(ctx.command)
        yield from _options(ctx)
    yield ".SH EXIT STATUS"
    yield "Those of aobatch run; the help of each command has its own."
    yield from _terms({str(code): text for code, text in EXIT_CODES.items()})
    yield ".SH ENVIRONMENT"
    yield from _terms(ENVIRONMENT)
    yield ".SH FILES"
    yield from _terms(FILES)


def _pieces(ctx: click.Context) -> list[str]:
    return ctx.command.collect_usage_pieces(ctx)


def _help(command: click.Command) -> Iterator[str]:
    """Give a help text; what stands behind a backspace keeps its lines."""
    for paragraph in inspect.cleandoc(command.help or "").split("\n\n"):
        is_kept = paragraph.startswith("\b\n")
        yield from [".PP", *([".nf"] if is_kept else [])]
        yield from (_plain(line) for line in paragraph.removeprefix("\b\n").splitlines())
        if is_kept:
            yield ".fi"


def _options(ctx: click.Context) -> Iterator[str]:
    parameters = ctx.command.get_params(ctx)
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    records = [option.get_help_record(ctx) for option in options]
    yield from _terms(dict(record for record in records if record is not None))


def _terms(terms: dict[str, str]) -> Iterator[str]:
    for term, text in terms.items():
        yield from (".TP", rf"\fB{_plain(term)}\fR", _plain(" ".join(text.split())))


def _plain(text: str) -> str:
    """Escape what the language of man would take for its own."""
    escaped = text.replace("\\", r"\e").replace("-", r"\-")
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped


if __name__ == "__main__":
    show(manual_page(), end="")
