"""A model on its way to nodes that do not have it: once a node, checked, for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from aobatch.errors import ModelError, OutputError
from aobatch.files import file_digest
from aobatch.models.checks import own_file
from aobatch.models.foreign import SUFFIX, open_export
from aobatch.models.store.catalogue import models_home
from aobatch.models.store.folder import MANIFEST
from aobatch.models.store.locate import locate
from aobatch.models.store.making import claim, put_in_place, workspace

CHUNK_BYTES = 16 << 20
SENT = "sent"
"""The folder of such models on a node, beside those that were converted there."""


@dataclass(frozen=True, slots=True)
class SentFile:
    """A file of a model folder, in Ray's object store."""

    name: str
    sha256: str
    chunks: Sequence[Any]
    """References, in order; nodes get them from one another."""


def model_digest(path: Path) -> str:
    """Give what nodes know a model by: the sha256 of its manifest, or of all files of an export.

    ModelError if it is an export that cannot run here.
    """
    if locate(path).kind == "model":
        return file_digest(path / MANIFEST)
    return open_export(path).manifest.digest


def send_model(ray: ModuleType, path: Path) -> list[SentFile]:
    """Put the files of a model, converted or exported, where all nodes can get them."""
    if locate(path).kind == "model":
        files = [file for file in path.iterdir() if file.is_file()]
    else:
        files = open_export(path).files
    return [_send(ray, file) for file in sorted(files)]


def receive_model(ray: ModuleType, files: Sequence[SentFile], place: Path, digest: str) -> None:
    """Write the model of a digest to its place, unless another worker of the node has done that.

    OutputError if it cannot be written, ModelError if it did not arrive as it was sent.
    """
    target = place.parent if place.suffix == SUFFIX else place
    with claim(target, lambda *_: None):
        if find_model([place], digest):
            return
        try:
            with workspace(target) as space:
                folder = space / "model"
                folder.mkdir()
                for file in files:
                    _receive(ray, file, folder / Path(file.name).name)
                put_in_place(folder, target)
        except OSError as error:
            message = (
                f"models cannot be kept in {target.parent}: {error.strerror}; set AOBATCH_MODELS"
            )
            raise OutputError(message) from error


def find_model(places: Sequence[Path], digest: str) -> Path | None:
    """Give the first place that has the model of a digest."""
    for place in places:
        try:
            if model_digest(place) == digest:
                return place
        except (ModelError, OSError):
            continue
    return None


def sent_place(digest: str, path: Path) -> Path:
    """Say where a node keeps a model that it was sent; a graph that was named keeps its name."""
    folder = models_home() / SENT / digest
    return folder / path.name if path.suffix == SUFFIX else folder


def _send(ray: ModuleType, path: Path) -> SentFile:
    with own_file(path).open("rb") as file:
        chunks = [ray.put(chunk) for chunk in iter(lambda: file.read(CHUNK_BYTES), b"")]
    return SentFile(path.name, file_digest(path), chunks)


def _receive(ray: ModuleType, sent: SentFile, path: Path) -> None:
    with path.open("wb") as file:
        file.writelines(map(ray.get, sent.chunks))
    if file_digest(path) != sent.sha256:
        message = f"{sent.name} of the model did not arrive as it was sent; run again"
        raise ModelError(message)
