"""Why a file or folder that is there is no model, and what its owner can do."""

import os
from collections.abc import Set
from pathlib import Path

from aobatch.models.checks.files import POINTER, POINTER_ADVICE
from aobatch.models.importers.sources import CONFIG, find_source

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
