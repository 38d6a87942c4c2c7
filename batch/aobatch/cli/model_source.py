"""Models that are named by the path of a file: converted once, and used from then on."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.cli.console import say
from aobatch.errors import ModelError, RequestError

if TYPE_CHECKING:
    from aobatch.models.store.folder import ModelFolder


def usable_model(
    name: str | None, stages: Callable[[str, int, int], None], *, is_quiet: bool
) -> str | None:
    """Give the name under which a model can be used; a file's is that of what it is converted to.

    ModelError if the file cannot be converted.
    """
    source = _unconverted(name)
    if source is None:
        return name
    from aobatch.models.store.catalogue import PRECISION, adopt, find_adopted

    if (known := find_adopted(source)) is not None:
        return known.manifest.name
    from aobatch.runners.scoring import score_texts

    adopted = adopt(source, stages, score_texts)
    if adopted.is_new and not is_quiet:
        say(
            f"{source} was converted to {PRECISION} once, in {adopted.folder.path}; "
            f"`aobatch models import {source} NAME` gives it a name and a precision of your choice"
        )
    return adopted.folder.manifest.name


def known_model(name: str | None) -> "tuple[str | None, Callable[[str | None], ModelFolder]]":
    """Give a name, and how models are found, for commands that convert nothing."""
    from aobatch.models.store.catalogue import find_adopted, resolve

    source = _unconverted(name)
    known = None if source is None else find_adopted(source)
    if known is not None:
        return known.manifest.name, resolve
    if source is None:
        return name, resolve

    def find(asked: str | None) -> "ModelFolder":
        if asked == name:
            message = f"{name} is not converted yet, which a run does once"
            raise ModelError(message)
        return resolve(asked)

    return name, find


def _unconverted(name: str | None) -> Path | None:
    """Give the file that a name leads to, unless there is a model of that name."""
    from aobatch.models.store.locate import find_source

    source = find_source(name) if name else None
    if source is None:
        return None
    from aobatch.models.store.catalogue import resolve

    try:
        resolve(name)
    except RequestError:
        return source
    return None
