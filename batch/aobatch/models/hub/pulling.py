"""A repository's model, fetched and converted; an exported graph is fetched alone, for it runs."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from aobatch.errors import UsageError
from aobatch.models.catalogue import import_checkpoint
from aobatch.models.folder import ModelFolder
from aobatch.models.hub.choice import choose
from aobatch.models.hub.client import Repository
from aobatch.models.importers.checkpoint import read_checkpoint
from aobatch.models.importers.licence_file import UNKNOWN, read_licence
from aobatch.models.naming import check_name
from aobatch.models.progress import Progress
from aobatch.models.quality import Scorer

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}", re.ASCII)


@dataclass(frozen=True, slots=True)
class HubModel:
    """What is asked for of a repository."""

    repository: str
    name: str = ""
    """What the model is to be called; the last part of the repository's name, if it is empty."""
    revision: str | None = None
    file: str | None = None
    precision: str = "int8"


def is_repository(name: str) -> bool:
    """Say whether a name is that of a repository, ORG/NAME."""
    return _NAME.fullmatch(name) is not None


def pull_from_hub(model: HubModel, progress: Progress, scorer: Scorer) -> ModelFolder | Path:
    """Fetch a model and convert it; of an exported graph give the path, by which it can be used.

    Raises ModelError if it cannot be fetched or converted.
    """
    if not is_repository(model.repository):
        message = f"{model.repository!r} is no repository; write it as ORG/NAME"
        raise UsageError(message)
    name = model.name or model.repository.rpartition("/")[2]
    check_name(name)
    repository = Repository(model.repository, model.revision, progress)
    files = choose(model.repository, repository.names(model.file), model.file)
    folder = repository.fetch(files)
    single = next((file for file in files if file.endswith((".gguf", ".onnx"))), None)
    if single is not None and single.endswith(".onnx"):
        return folder / single
    checkpoint = read_checkpoint(folder if single is None else folder / single)
    licence = read_licence(folder)
    return import_checkpoint(
        replace(
            checkpoint,
            source=f"{model.repository} {folder.name}",
            licence=checkpoint.licence if licence == UNKNOWN else licence,
        ),
        name,
        precision=model.precision,
        progress=progress,
        scorer=scorer,
    )
