"""Checks: what a model's files must be before any native library reads them."""

from pathlib import Path

from aobatch.errors import ModelError

MAX_SHOWN, MAX_REASON = 80, 300
"""Characters of a file's own words, and of a library's about it, that a message shows."""


def refusal(path: Path, reason: str) -> ModelError:
    """Give the error that names a file which is not to be read, and why."""
    advice = "convert the model again, or get it from its author"
    return ModelError(f"{path} is refused: {printable(reason)}; {advice}")


def printable(text: str) -> str:
    """Give the beginning of a text, with nothing in it that moves a terminal's cursor."""
    shortened = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in shortened
    )


def shown(value: object) -> str:
    """Quote something that a file says, in a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
