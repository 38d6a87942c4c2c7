"""A dependency file as compilers write it: from which files make is to see an output as made."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from aobatch.errors import OutputError, UsageError
from aobatch.files import write_whole
from aobatch.job.config import STREAM, JobConfig

BY_BACKSLASH = frozenset(" #*:?[]")
BY_REFERENCE = {"$": "$$", "=": "$(or =)"}
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
    """Write what the output of a job hangs on, if the job is to have such a file."""
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
    escaped = "".join(_escaped(text))
    return f"./{escaped}" if text.startswith("~") else escaped


def _escaped(text: str) -> Iterator[str]:
    num_backslashes = 0
    for character in text:
        if character in BY_BACKSLASH:
            # Backslashes ahead of an escaped character are escapes themselves.
            yield "\\" * num_backslashes + "\\"
        num_backslashes = num_backslashes + 1 if character == "\\" else 0
        yield BY_REFERENCE.get(character, character)


def _named(config: JobConfig) -> list[Path]:
    """Give the files that the job names; make knows none of those that are elsewhere."""
    paths = (*config.inputs, config.settings_file)
    return [path for path in paths if isinstance(path, Path) and path != STREAM]


def _files_of(models: Iterable[Path]) -> list[Path]:
    # A graph that was exported may be named itself, or lie in a folder of the folder.
    named = {model if model.is_dir() else model.parent for model in models if model.exists()}
    folders = sorted(named | {model / "onnx" for model in named if (model / "onnx").is_dir()})
    return [path for folder in folders for path in sorted(folder.iterdir()) if path.is_file()]
