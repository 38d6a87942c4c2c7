"""What a path leads to: a converted model, an exported graph, weights to convert, or none of them.

An exported graph has no weights to convert; another runner computes it as it is.
"""

import os
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from aobatch.errors import ModelError
from aobatch.models.checks import ADAPTER, ADAPTER_ADVICE, POINTER, POINTER_ADVICE, part_names
from aobatch.models.foreign import is_export, open_export, unpacked
from aobatch.models.store.folder import MANIFEST, ModelFolder, has_file, open_folder

if TYPE_CHECKING:
    from aobatch.models.spec import Checkpoint

CONFIG = "config.json"
_MAGIC = b"GGUF"
_GGUF, _SAFETENSORS, _PICTURES = ".gguf", ".safetensors", "mmproj"
_PICKLES = frozenset({".bin", ".pt", ".pth", ".ckpt"})
_WHAT_IS = "a model is a GGUF file, or a folder with config.json and safetensors as published"

Kind: TypeAlias = Literal["model", "export", "gguf", "safetensors"]


@dataclass(frozen=True, slots=True)
class Place:
    """What is at a path, whatever state it is in."""

    path: Path
    kind: Kind | None = None
    reason: str = ""
    """Why it cannot be run as it is; empty if it can, and if there is nothing."""

    @property
    def is_source(self) -> bool:
        """Whether it is to be converted first."""
        return self.kind in ("gguf", "safetensors")


def locate(path: str | Path) -> Place:
    """Look at a path, which may be any text: at names and first bytes, at nothing that waits."""
    place = Path(path)
    try:
        if has_file(place, MANIFEST):
            return Place(place, "model")
        if is_export(place):
            return Place(place, "export")
        place = unpacked(place)
        if kind := weights_at(place):
            advice = f"do it with `aobatch models import {path} NAME`"
            return Place(place, kind, f"{path} is not converted yet; {advice}")
        if not place.exists():
            return Place(place)
        names = {entry.name for entry in place.iterdir()} if place.is_dir() else None
        reason = _of_file(place) if names is None else _of_folder(names)
        return Place(place, None, f"{path} is no model: {reason}")
    except (OSError, ValueError):
        return Place(place)


def locate_named(name: str) -> Place:
    """Look at what a name leads to as a path.

    One without a separator is a path only if it begins with a dot or ends as a file of weights
    does, so that what is in the working folder never stands in for a model of that name.
    """
    found = locate(name)
    if is_path(name):
        return found
    if not name or not (found.kind or found.reason):
        return Place(found.path)
    reason = f"there is no model {name}; if the file or folder here is meant, name it ./{name}"
    return Place(found.path, None, reason)


def is_path(name: str) -> bool:
    """Say whether a name is taken for a path alone."""
    suffix = Path(name).suffix.lower()
    return os.sep in name or name.startswith(".") or suffix in (_GGUF, ".onnx")


def open_model(path: Path) -> ModelFolder:
    """Open a converted model or an exported graph by its path."""
    return open_export(path) if locate(path).kind == "export" else open_folder(path)


def read_checkpoint(path: Path, adapters: Sequence[Path] = ()) -> "Checkpoint":
    """Open a GGUF file or a folder of safetensors, adapters merged; ModelError if it is neither."""
    if adapters:
        from aobatch.models.source.adapter import merge_adapter

        return reduce(merge_adapter, adapters, read_checkpoint(path))
    # What is converted already is found without these.
    from aobatch.models.source.gguf_checkpoint import read_gguf
    from aobatch.models.source.safetensors import read_safetensors

    path = unpacked(path)
    kind = weights_at(path)
    if kind == "safetensors":
        return read_safetensors(path)
    if kind == "gguf":
        return read_gguf(gguf_at(path) or path)
    place = locate(path.absolute())
    message = f"{path} does not exist; give the path of a GGUF file or of a safetensors folder"
    if is_repository(str(path)):
        message = (
            f"there is no folder {path}; if it is a repository of Hugging Face, get it with "
            f"`aobatch models pull {path}`"
        )
    if place.kind in ("model", "export"):
        message = f"{path} is an exported graph; run it as it is with --model {path}"
    raise ModelError(place.reason or message)


_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def is_repository(name: str) -> bool:
    """Say whether a name could be that of a repository of Hugging Face, ORG/NAME."""
    return bool(_REPOSITORY.fullmatch(name)) and not name.endswith((_GGUF, ".onnx"))


def weights_at(path: Path) -> Literal["gguf", "safetensors"] | None:
    """Say which weights there are that can be converted."""
    if path.is_dir():
        if (path / CONFIG).is_file() and any(path.glob("*.safetensors")):
            return "safetensors"
        return "gguf" if gguf_at(path) else None
    return "gguf" if path.is_file() and _begins(path, _MAGIC) else None


def gguf_at(path: Path) -> Path | None:
    """Give the one GGUF file of a folder, the first there is of its parts; None if there are more.

    What reads pictures for a model lies beside it.
    """
    if not path.is_dir():
        return path
    files = sorted(file for file in path.glob("*.gguf") if not file.name.startswith(_PICTURES))
    return files[0] if len({part_names(file.name)[0] for file in files}) == 1 else None


def _begins(path: Path, mark: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(mark)) == mark


_OTHERS: Mapping[str, str] = {
    "openvino_model.xml": "OpenVINO",
    "model.bin": "CTranslate2",
    "tf_model.h5": "TensorFlow",
    "flax_model.msgpack": "Flax",
}
"""Formats of other libraries, by the file that tells them."""


def _of_folder(names: Set[str]) -> str:
    suffixes = [Path(name).suffix for name in names]
    if ADAPTER in names:
        return f"it {ADAPTER_ADVICE}"
    other = next((kind for name, kind in _OTHERS.items() if name in names), "")
    if other and _SAFETENSORS not in suffixes:
        return f"its weights are in the format of {other}; get its safetensors or a GGUF file"
    if (count := suffixes.count(_GGUF)) > 1:
        return f"it has {count} GGUF files; name one of them"
    if _SAFETENSORS in suffixes and CONFIG not in names:
        return f"its safetensors files have no {CONFIG} beside them; get the whole folder"
    if not _PICKLES.isdisjoint(suffixes):
        return "its weights are pickles, which are never read; get its safetensors or a GGUF file"
    has_config = CONFIG in names
    lacks = f"{CONFIG} has no weights beside it; get the whole folder" if has_config else ""
    return lacks or f"it has no weights; {_WHAT_IS}"


def _of_file(path: Path) -> str:
    if not path.is_file():
        return f"it is neither a file nor a folder; {_WHAT_IS}"
    if _begins(path, POINTER):
        return f"it {POINTER_ADVICE}"
    if path.suffix == _SAFETENSORS:
        return "it is a part of one; name its folder"
    return f"it is neither a GGUF file nor an exported graph; {_WHAT_IS}"
