"""A model on its way to nodes that do not have it: once a node, checked, for good."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from aobatch.errors import ModelError, OutputError
from aobatch.models.catalogue import models_home
from aobatch.models.claim import claim, put_in_place, workspace
from aobatch.models.digest import file_digest
from aobatch.models.folder import MANIFEST, has_file

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


def send_model(ray: ModuleType, folder: Path) -> list[SentFile]:
    """Put the files of a model folder where all nodes can get them."""
    return [_send(ray, path) for path in sorted(folder.iterdir()) if path.is_file()]


def receive_model(ray: ModuleType, files: Sequence[SentFile], target: Path) -> None:
    """Write a model folder, unless another worker of the node has done that.

    OutputError if it cannot be written, ModelError if it did not arrive as it was sent.
    """
    with claim(target, lambda *_: None):
        if has_file(target, MANIFEST):
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


def find_model(places: Sequence[Path], manifest: str) -> Path | None:
    """Give the first folder whose manifest has that sha256."""
    for place in places:
        try:
            if has_file(place, MANIFEST) and file_digest(place / MANIFEST) == manifest:
                return place
        except OSError:
            continue
    return None


def sent_place(manifest: str) -> Path:
    """Give the folder in which a node keeps a model that it was sent."""
    return models_home() / SENT / manifest


def _send(ray: ModuleType, path: Path) -> SentFile:
    digest, chunks = hashlib.sha256(), []
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            chunks.append(ray.put(chunk))
    return SentFile(path.name, digest.hexdigest(), chunks)


def _receive(ray: ModuleType, sent: SentFile, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("wb") as file:
        for reference in sent.chunks:
            chunk = ray.get(reference)
            digest.update(chunk)
            file.write(chunk)
    if digest.hexdigest() != sent.sha256:
        message = f"{sent.name} of the model did not arrive as it was sent; run again"
        raise ModelError(message)
