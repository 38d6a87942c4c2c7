"""Cards: the models that aobatch knows where to get."""

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import msgspec


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

    kind: str
    sha256: str
    """Of the GGUF file."""
    wheels: tuple[Wheel, ...]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One model of the catalogue."""

    name: str
    description: str
    family: str
    licence: str
    context_length: int
    precision: str
    source: Source
    languages: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    default: bool = False
    notice: str = ""
    """Terms that have to be accepted before the model is used; empty if there are none."""


@cache
def cards() -> tuple[Card, ...]:
    """Read all cards, the default model's first."""
    files_found = [file for file in _card_folder().iterdir() if file.name.endswith(".toml")]
    found = [msgspec.toml.decode(file.read_bytes(), type=Card) for file in files_found]
    return tuple(sorted(found, key=lambda card: (not card.default, card.name)))


def checkout() -> Path | None:
    """Give the root of the repository if this package runs from one."""
    root = Path(__file__).resolve().parents[3]
    return root if (root / "models").is_dir() and (root / "pyproject.toml").is_file() else None


def _card_folder() -> Traversable:
    root = checkout()
    return root / "models" if root else files("aobatch.models").joinpath("cards")
