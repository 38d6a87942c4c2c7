"""A model folder: model.onnx (and its data), tokenizer.json, model.toml."""

from dataclasses import dataclass
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.manifest import FORMAT, Manifest, read_manifest


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a converted model lies, and what it says of itself."""

    path: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())


def open_folder(path: Path) -> ModelFolder:
    """Open a model folder; ModelError if something is missing or of another layout."""
    for name in ("model.onnx", "tokenizer.json", "model.toml"):
        if not (path / name).is_file():
            message = f"{path} is not a model folder: {name} is missing"
            raise ModelError(message)
    manifest = read_manifest(path / "model.toml")
    if manifest.format != FORMAT:
        message = (
            f"{path} has layout {manifest.format}, this aobatch reads {FORMAT}; convert it again "
            f"with `aobatch models pull {manifest.name}`"
        )
        raise ModelError(message)
    return ModelFolder(path, manifest)
