"""Checks: what a model's files must be before any native library reads them."""

from pathlib import Path

from aobatch.errors import ModelError

MAX_SHOWN = 80
"""Characters of a file's own words that a message shows."""


def refusal(path: Path, reason: str) -> ModelError:
    """Give the error that names a file which is not to be read, and why."""
    message = f"{path} is refused: {reason}; convert the model again, or get it from its author"
    return ModelError(message)


def shown(value: object) -> str:
    """Quote something that a file says, in a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
