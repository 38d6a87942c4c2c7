"""The files that inputs name: one by one, by patterns, or as folders."""

import glob
import os
import re
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from aobatch.errors import InputMissingError
from aobatch.formats import is_known, known_suffixes
from aobatch.formats.remote import Location, Remote
from aobatch.job.config import STREAM

_WRITTEN = re.compile(r"\.(out|errors)(-\d+-of-\d+)?\.")
"""In names of files that jobs write unless they are told others."""
_STATE_FOLDER = ".aobatch"
_SKIPPED_FOLDERS = (_STATE_FOLDER, ".stream")


def expand_inputs(named: Sequence[Location], outputs: Sequence[Location]) -> tuple[Location, ...]:
    """Give the files of all inputs; those of a pattern or folder in the order of their names.

    Among several files, those that a job wrote are passed over: a shell's pattern finds them too.
    InputMissingError if nothing is left of an input.
    """
    files: dict[Location, None] = {}
    for location in named:
        if _is_single(location):
            if len(named) == 1 or not _is_output(location, outputs):
                files[location] = None
            continue
        found = [file for file in _find(location) if not _is_written(file, outputs)]
        if not found:
            message = (
                f"input {location} holds no file of requests; {known_suffixes()}; what jobs wrote "
                "does not count"
            )
            raise InputMissingError(message)
        files.update(dict.fromkeys(found))
    if not files:
        message = "all inputs are outputs of jobs; name the files of requests"
        raise InputMissingError(message)
    return tuple(files)


def _is_single(location: Location) -> bool:
    if location == STREAM:
        return True
    if isinstance(location, Remote):
        return not location.is_folder and "*" not in location.name
    return location.is_file() or not (location.is_dir() or glob.has_magic(str(location)))


def _find(location: Location) -> list[Location]:
    """Give the files of known formats that a folder or pattern holds, in order."""
    if isinstance(location, Remote):
        return [file for file in _list(location) if is_known(file)]
    if location.is_dir():
        paths = _walk(location)
    else:
        # pathlib's own takes no absolute patterns.
        paths = map(Path, glob.glob(str(location), recursive=True))  # noqa: PTH207
    return [path for path in sorted(paths) if is_known(path) and path.is_file()]


def _list(location: Remote) -> list[Remote]:
    from aobatch.formats.remote import list_files

    if location.is_folder:
        return list_files(location)
    files = list_files(location.with_name(""))
    return [file for file in files if fnmatchcase(file.name, location.name)]


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders[:] = [
            name for name in folders if name[0] != "." and not name.endswith(_SKIPPED_FOLDERS)
        ]
        yield from (Path(parent, name) for name in names if name[0] != ".")


def _is_written(file: Location, outputs: Sequence[Location]) -> bool:
    return _WRITTEN.search(file.name) is not None or _is_output(file, outputs)


def _is_output(file: Location, outputs: Sequence[Location]) -> bool:
    """Say whether a file is the output of this job or of another one, whose state is beside it."""
    if isinstance(file, Remote) or file == STREAM:
        return file in outputs and file != STREAM
    if file.with_name(f"{file.name}{_STATE_FOLDER}").is_dir():
        return True
    return any(
        isinstance(output, Path) and output.exists() and file.exists() and output.samefile(file)
        for output in outputs
    )
