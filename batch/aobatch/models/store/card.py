"""Cards: the models that aobatch knows where to get, their terms, and the names that are left."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path

import msgspec

from aobatch.errors import ModelError, OutputError, UnavailableModelError
from aobatch.models import PRECISIONS
from aobatch.models.store.folder import FILES, FORMER_FILES, MANIFEST
from aobatch.text import printable

MAX_NAME_BYTES = 128
"""Names of folders for work are a little longer, and file systems allow 255."""


class Wheel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A package file with (a part of) a model inside."""

    package: str
    version: str
    sha256: str
    bytes: int
    member: str
    """The path of the model's file in the wheel."""


class Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a model comes from: the members of its wheels, joined, are one GGUF file."""

    sha256: str
    """Of the GGUF file."""
    wheels: tuple[Wheel, ...]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue."""

    name: str
    description: str
    licence: str
    precision: str
    source: Source
    aliases: tuple[str, ...] = ()
    default: bool = False
    notice: str = ""
    """Terms that have to be accepted before the model is used; empty if there are none."""


@cache
def cards() -> tuple[Card, ...]:
    """Read all cards, the default model's first."""
    root = checkout()
    folder = root / "models" if root else files("aobatch.models").joinpath("cards")
    texts = [file.read_bytes() for file in folder.iterdir() if file.name.endswith(".toml")]
    found = [msgspec.toml.decode(text, type=Card) for text in texts]
    return tuple(sorted(found, key=lambda card: (not card.default, card.name)))


def checkout() -> Path | None:
    """Find the root of the repository if this package runs from one."""
    root = Path(__file__).resolve().parents[4]
    return root if (root / "models").is_dir() and (root / "pyproject.toml").is_file() else None


@contextmanager
def home_errors(home: Path) -> Iterator[None]:
    """Say in one sentence that models cannot be kept where the block writes."""
    try:
        yield
    except OSError as error:
        message = f"models cannot be kept in {home}: {error.strerror}; set AOBATCH_MODELS"
        raise OutputError(message) from error


def needs_acceptance(card: Card, home: Path) -> bool:
    """Say whether a card has terms that nobody accepted as they are now."""
    try:
        accepted = _record(card, home).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        accepted = ""
    return bool(card.notice) and accepted != _digest(card)


def check_accepted(card: Card, home: Path) -> None:
    """Raise UnavailableModelError if a model's terms are still to be accepted."""
    if needs_acceptance(card, home):
        message = (
            f"{card.name} comes under the {card.licence}; read and accept them with "
            f"`aobatch models pull {card.name}`, or with --accept-licence where nobody can be asked"
        )
        raise UnavailableModelError(message)


def accept(card: Card, home: Path) -> None:
    """Remember that a card's terms were accepted; OutputError if nothing can be written there."""
    record = _record(card, home)
    with home_errors(home):
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{_digest(card)}\n", encoding="ascii")


def _record(card: Card, home: Path) -> Path:
    return home / ".accepted" / card.name


def _digest(card: Card) -> str:
    return hashlib.sha256(card.notice.encode()).hexdigest()


def check_name(name: str) -> None:
    """Raise ModelError if a model that is imported cannot have that name."""
    reason = ""
    own = [own for card in cards() for own in (card.name, *card.aliases)]
    others = [f"{card.name}-{precision}" for card in cards() for precision in PRECISIONS]
    if name in own or name in others:
        reason = "it belongs to the catalogue; choose another one"
    elif name != Path(name).name or name.startswith(".") or not name.isprintable():
        reason = "choose one without slashes and without a dot at its beginning"
    elif not 0 < len(os.fsencode(name)) <= MAX_NAME_BYTES:
        reason = f"choose one of 1 to {MAX_NAME_BYTES} bytes"
    if reason:
        message = f"'{printable(name)}' cannot name an imported model: {reason}"
        raise ModelError(message)


def check_place(target: Path) -> None:
    """Raise OutputError if something else than a model would be lost when one is put there."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        message = f"{target} is no folder of a model; move it away, or choose another name"
        raise OutputError(message)
    strangers = {path.name for path in target.glob("*")} - {*FILES, *FORMER_FILES, MANIFEST}
    if strangers:
        message = (
            f"{target} has files that are no model's, such as {printable(min(strangers))}; move "
            "them away, or choose another name"
        )
        raise OutputError(message)
