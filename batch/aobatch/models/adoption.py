"""Files that are used as they lie: converted once, under a name that follows from their content.

What was converted is remembered by the sizes and times of the files, so that the next run neither
converts nor reads them again.
"""

import re
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aobatch.errors import ModelError
from aobatch.models.catalogue import models_home
from aobatch.models.claim import claim
from aobatch.models.folder import ModelFolder, open_folder
from aobatch.models.progress import Progress

if TYPE_CHECKING:  # a file that was converted is found without numpy
    from aobatch.models.quality import Scorer
    from aobatch.models.spec import Checkpoint

PRECISION = "int8"
_NOTES = ".sources"
"""The folder that remembers files, beside the models."""
_PATTERNS = ("*.gguf", "*.safetensors", "*.json")
_DIGITS = 12
_MAX_NAME = 64


class _Note(msgspec.Struct, frozen=True):
    """A file or folder that was converted."""

    stamps: dict[str, tuple[int, int]]
    """Size and time of each of its files."""
    name: str
    """Of the model."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The model of a file."""

    folder: ModelFolder
    is_new: bool
    """Whether it was converted just now."""


def find_adopted(source: Path) -> ModelFolder | None:
    """Give the model of a file that was converted and has not changed since; else None."""
    try:
        note = msgspec.json.decode(_note_path(source).read_bytes(), type=_Note)
        is_same = note.stamps == _stamps(source)
    except (OSError, msgspec.DecodeError):
        return None
    return _current(models_home() / Path(note.name).name) if is_same else None


def adopt(source: Path, progress: Progress, scorer: "Scorer") -> Adopted:
    """Give the model of a GGUF file or safetensors folder, converting it if it must be.

    Raises ModelError if it cannot be converted.
    """
    if (known := find_adopted(source)) is not None:
        return Adopted(known, is_new=False)
    from aobatch.models.conversion import convert
    from aobatch.models.importers.checkpoint import read_checkpoint

    stamps = _stamps(source)
    checkpoint = read_checkpoint(source)
    progress(f"reading {source.name}", 0, 1)
    target = _target(source, checkpoint)
    progress(f"reading {source.name}", 1, 1)
    with claim(target, progress):
        # Whoever had the claim before may have made it, and a copy elsewhere is the same model.
        folder = _current(target)
        is_new = folder is None
        if folder is None:
            folder = convert(
                checkpoint, target, precision=PRECISION, scorer=scorer, progress=progress
            )
    _remember(source, _Note(stamps, target.name))
    return Adopted(folder, is_new)


def _target(source: Path, checkpoint: "Checkpoint") -> Path:
    """Give the model that has the content of a file, or a place named by both, if there is none."""
    from aobatch.files import files_digest

    base = re.sub(r"[^A-Za-z0-9._-]+", "-", source.resolve().name.removesuffix(".gguf"))
    descriptions = sorted(source.glob("*.json")) if source.is_dir() else []
    digest = files_digest((*checkpoint.files, *descriptions))[:_DIGITS]
    name = f"{base.strip('.-')[:_MAX_NAME] or 'model'}-{digest}"
    # The file may have had another name when it was converted.
    known = (path for path in sorted(models_home().glob(f"*-{digest}")) if _current(path))
    return next(known, models_home() / name)


def _stamps(source: Path) -> dict[str, tuple[int, int]]:
    files = [file for pattern in _PATTERNS for file in source.glob(pattern)]
    statuses = {file.name: file.stat() for file in (files if source.is_dir() else [source])}
    return {name: (status.st_size, status.st_mtime_ns) for name, status in statuses.items()}


def _note_path(source: Path) -> Path:
    return (
        models_home() / _NOTES / f"{sha256(str(source.resolve()).encode()).hexdigest()[:32]}.json"
    )


def _remember(source: Path, note: _Note) -> None:
    path = _note_path(source)
    # Without a note the next run reads the file once more, and that is all.
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(note))


def _current(path: Path) -> ModelFolder | None:
    try:
        return open_folder(path)
    except ModelError:
        return None
