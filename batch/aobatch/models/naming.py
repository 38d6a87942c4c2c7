"""What a model that is imported may be called, and where it may be put."""

import os
from pathlib import Path

from aobatch.errors import ModelError, OutputError
from aobatch.models.card import cards
from aobatch.models.folder import FILES, MANIFEST
from aobatch.text import printable

MAX_NAME_BYTES = 128
"""Names of folders for work are a little longer, and file systems allow 255."""


def check_name(name: str) -> None:
    """Raise ModelError if a model that is imported cannot have that name."""
    from aobatch.models.recipes import PRECISIONS

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
    strangers = {path.name for path in target.glob("*")} - {*FILES, MANIFEST}
    if strangers:
        message = (
            f"{target} has files that are no model's, such as {printable(min(strangers))}; move "
            "them away, or choose another name"
        )
        raise OutputError(message)
