"""A model folder: graphs that share their weights, tokenizer.json, model.toml."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from aobatch.errors import ModelError
from aobatch.models.manifest import MAX_KL, Manifest, read_manifest

GRAPH, TOKENIZER, MANIFEST = "model.onnx", "tokenizer.json", "model.toml"
INT8_CACHE_GRAPH = "model.kv-int8.onnx"

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
    """Open a model folder; ModelError if something is missing or of another layout.

    The folder may be reached through links, its files may not be links (see `checks.files`).
    """
    path = path.resolve()
    for name in (GRAPH, TOKENIZER, MANIFEST):
        if not has_file(path, name):
            message = f"{path} is not a model folder: {name} is missing"
            raise ModelError(message)
    return ModelFolder(path, read_manifest(path / MANIFEST))
