"""A model folder: graphs that share their weights, tokenizer.json, model.toml."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from aobatch.errors import ModelError
from aobatch.models.manifest import MAX_KL, Manifest, StoredFile, read_manifest

GRAPH, TOKENIZER, MANIFEST = "model.onnx", "tokenizer.json", "model.toml"
DATA = f"{GRAPH}.data"
INT8_CACHE_GRAPH = "model.kv-int8.onnx"
FILES = (GRAPH, DATA, TOKENIZER, INT8_CACHE_GRAPH)
"""What is written beside the description, the last one not always."""

CacheDtype: TypeAlias = Literal["fp32", "int8"]
"""How keys and values are kept."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a converted model lies, and what it says of itself."""

    path: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.path / TOKENIZER

    def graph(self, cache_dtype: CacheDtype = "fp32") -> Path:
        """Give the graph over such a cache; ModelError if the model does not bear int8."""
        if cache_dtype == "fp32":
            return self.path / GRAPH
        int8 = self.manifest.int8_cache
        if not int8.digest:
            message = (
                f"{self.manifest.name} is too far from fp32 with an int8 cache (KL "
                f"{int8.quality.kl:.4f}, at most {MAX_KL}); use --kv-cache-dtype fp32"
            )
            raise ModelError(message)
        return self.path / INT8_CACHE_GRAPH


def has_file(path: Path, name: str) -> bool:
    """Say whether a folder has that file; one that cannot be looked into, or named, has none."""
    try:
        return (path / name).is_file()
    except OSError:
        return False


def open_folder(path: Path) -> ModelFolder:
    """Open a model folder; ModelError if something is missing, replaced or of another layout.

    The folder may be reached through links, its files may not be links (see `checks.files`). Of
    its files the sizes are looked at, which takes no time; `aobatch models verify` reads them.
    """
    folder = read_folder(path)
    for name, stored in folder.manifest.files.items():
        size = _size(folder.path, name) if name in FILES else stored.bytes
        if size != stored.bytes:
            found = "is missing" if size is None else f"has {size} bytes, not {stored.bytes}"
            message = (
                f"{folder.path} was changed since it was converted: {name} {found}; see "
                f"`aobatch models verify {folder.manifest.name}`, and convert the model again"
            )
            raise ModelError(message)
    return folder


def read_folder(path: Path) -> ModelFolder:
    """Give a model folder as it describes itself, true or not; ModelError if it is none."""
    path = path.resolve()
    for name in (GRAPH, TOKENIZER, MANIFEST):
        if not has_file(path, name):
            message = f"{path} is not a model folder: {name} is missing"
            raise ModelError(message)
    return ModelFolder(path, read_manifest(path / MANIFEST))


def _size(path: Path, name: str) -> int | None:
    try:
        return (path / name).stat().st_size
    except OSError:
        return None


def folder_digest(files: Mapping[str, StoredFile]) -> str:
    """Give the sha256 over the graph, its data and the tokenizer."""
    parts = [bytes.fromhex(files[name].sha256) for name in (GRAPH, DATA, TOKENIZER)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
