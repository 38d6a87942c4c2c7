"""A file for make: what the output of a job is made from."""

import re
from collections.abc import Iterable
from pathlib import Path

from aobatch.errors import OutputError, UsageError
from aobatch.files import write_whole
from aobatch.job.config import STREAM, JobConfig

UNWRITABLE = frozenset("%;|\t\n\r")
"""What make takes for something else however it is escaped."""


def check_depfile(config: JobConfig) -> None:
    """Refuse a dependency file that could not be written, before anything is computed."""
    if config.depfile is None:
        return
    if config.output == STREAM or config.uploads:
        message = "make follows files: name one with --output, or leave out --depfile"
        raise UsageError(message)
    if config.depfile in (config.output, config.errors, *config.inputs):
        message = f"--depfile {config.depfile} is a file of the job; name another one"
        raise UsageError(message)
    if not config.depfile.parent.is_dir():
        message = f"folder {config.depfile.parent} of --depfile does not exist; create it"
        raise OutputError(message)
    for path in (config.output, *_named(config)):
        escape_for_make(path)


def write_depfile(config: JobConfig, models: Iterable[Path]) -> None:
    """Write what the output of a job depends on, if the job is to have such a file."""
    if config.depfile is None:
        return
    paths = [escape_for_make(path) for path in (*_named(config), *_files_of(models))]
    rule = " \\\n  ".join([f"{escape_for_make(config.output)}:", *paths])
    # Without a rule of its own, a file that is gone would stop make instead of a new run.
    gone = "".join(f"\n{path}:\n" for path in paths)
    write_whole(config.depfile, f"{rule}\n{gone}".encode(errors="surrogateescape"))


def escape_for_make(path: Path) -> str:
    """Write a path so that make reads it as one name; UsageError if there is no way."""
    text = str(path)
    if not UNWRITABLE.isdisjoint(text):
        message = f"make cannot take the name {text!r}; choose another one or leave out --depfile"
        raise UsageError(message)
    # Backslashes ahead of an escaped character are escapes themselves.
    escaped = re.sub(r"(\\*)([ #*:?\[\]])", r"\1\1\\\2", text)
    escaped = escaped.replace("$", "$$").replace("=", "$(or =)")
    return f"./{escaped}" if text.startswith("~") else escaped


def _named(config: JobConfig) -> list[Path]:
    """List the files that the job names; make knows none of those that are elsewhere."""
    paths = (*config.inputs, config.settings_file)
    return [path for path in paths if isinstance(path, Path) and path != STREAM]


def _files_of(models: Iterable[Path]) -> list[Path]:
    # A graph that was exported may be named itself, or lie in a folder of the folder.
    named = {model if model.is_dir() else model.parent for model in models if model.exists()}
    folders = sorted(named | {model / "onnx" for model in named if (model / "onnx").is_dir()})
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
