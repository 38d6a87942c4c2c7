"""Terms that somebody has to accept before a model is used: asked for once, and remembered."""

import hashlib
from pathlib import Path

from aobatch.errors import OutputError, UnavailableModelError
from aobatch.models.card import Card

_FOLDER = ".accepted"
"""Where acceptance is remembered, beside the models."""


def needs_acceptance(card: Card, home: Path) -> bool:
    """Say whether a card has terms that nobody accepted as they are now."""
    if not card.notice:
        return False
    try:
        return _record(card, home).read_text(encoding="ascii").strip() != _digest(card)
    except (OSError, UnicodeDecodeError):
        return True


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
    try:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(f"{_digest(card)}\n", encoding="ascii")
    except OSError as error:
        message = f"models cannot be kept in {home}: {error.strerror}; set AOBATCH_MODELS"
        raise OutputError(message) from error


def _record(card: Card, home: Path) -> Path:
    return home / _FOLDER / card.name


def _digest(card: Card) -> str:
    return hashlib.sha256(card.notice.encode()).hexdigest()
