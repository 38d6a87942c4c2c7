"""Whatever a user has of a decoder as a checkpoint: the importer is chosen by what is there.

A model that is a graph already (an exported ONNX folder) has no weights to convert; another runner
runs it as it is.
"""

import os
from collections.abc import Set
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.errors import ModelError
from aobatch.models.checks import POINTER, POINTER_ADVICE
from aobatch.models.foreign import is_export

if TYPE_CHECKING:
    from aobatch.models.spec import Checkpoint

CONFIG = "config.json"
_MAGIC = b"GGUF"


def find_source(name: str) -> Path | None:
    """Give the GGUF file, or folder of safetensors or of one GGUF file, that a path leads to.

    A name without a separator is a path only if it ends in `.gguf`, so that what lies in the
    working folder never stands in for a model of that name.
    """
    path = Path(name)
    if os.sep not in name and path.suffix.lower() != ".gguf":
        return None
    try:
        return path if _is_source(path) else None
    except (OSError, ValueError):
        return None


def _is_source(path: Path) -> bool:
    if path.is_dir():
        has_weights = (path / CONFIG).is_file() and any(path.glob("*.safetensors"))
        return has_weights or len(list(path.glob("*.gguf"))) == 1
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_SAFETENSORS, _GGUF = ".safetensors", ".gguf"
_WHAT_IS = "a model is a GGUF file, or a folder with config.json and safetensors as published"


def why_unusable(name: str) -> str | None:
    """Say why what a name leads to as a path is no model; None if it leads nowhere."""
    path = Path(name)
    try:
        if not path.exists():
            return None
        if os.sep not in name and not name.startswith("."):
            return (
                f"there is no model {name}; if the file or folder here is meant, name it ./{name}"
            )
        if find_source(name) is not None:
            return f"{name} is not converted yet; do it with `aobatch models import {name} NAME`"
        names = {entry.name for entry in path.iterdir()} if path.is_dir() else None
        reason = _of_file(path) if names is None else _of_folder(names)
    except (OSError, ValueError):
        return None
    return f"{name} is no model: {reason}"


def _of_folder(names: Set[str]) -> str:
    suffixes = [Path(name).suffix for name in names]
    if (count := suffixes.count(_GGUF)) > 1:
        return f"it has {count} GGUF files; name one of them"
    if _SAFETENSORS in suffixes and CONFIG not in names:
        return f"its safetensors files have no {CONFIG} beside them; get the whole folder"
    if not _PICKLES.isdisjoint(suffixes):
        return "its weights are pickles, which are never read; get its safetensors or a GGUF file"
    if CONFIG in names:
        return f"{CONFIG} has no weights beside it; get the whole folder"
    return f"it has no weights; {_WHAT_IS}"


def _of_file(path: Path) -> str:
    if not path.is_file():
        return f"it is neither a file nor a folder; {_WHAT_IS}"
    with path.open("rb") as file:
        if file.read(len(POINTER)) == POINTER:
            return f"it {POINTER_ADVICE}"
    if path.suffix == _SAFETENSORS:
        return "it is a part of one; name its folder"
    return f"it is neither a GGUF file nor an exported graph; {_WHAT_IS}"


def read_checkpoint(path: Path) -> "Checkpoint":
    """Open a GGUF file or a folder of safetensors; ModelError if it is neither."""
    # What is converted already is found without these.
    from aobatch.models.source.gguf_checkpoint import read_gguf
    from aobatch.models.source.safetensors import read_safetensors

    if path.is_dir():
        if (path / CONFIG).exists() and any(path.glob("*.safetensors")):
            return read_safetensors(path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return read_gguf(files[0])
        _refuse_export(path)
    else:
        _refuse_export(path)
        if find_source(str(path.absolute())) is not None:
            return read_gguf(path)
    message = why_unusable(str(path.absolute())) or (
        f"{path} does not exist; give the path of a GGUF file or of a safetensors folder"
    )
    raise ModelError(message)


def _refuse_export(path: Path) -> None:
    """Raise ModelError if there is a graph already, which needs no conversion."""
    if is_export(path):
        message = f"{path} is an exported graph; run it as it is with --model {path}"
        raise ModelError(message)
