"""Model families: one file each, named as the family names itself in its files."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from aobatch.errors import ModelError
from aobatch.models.fields import Fields
from aobatch.models.shapes import Shape
from aobatch.models.spec import DecoderSpec


class Family(Protocol):
    """What a module of this package offers."""

    def spec_from_gguf(self, fields: Fields, vocab_size: int) -> DecoderSpec:
        """Read the sizes from a GGUF's metadata."""
        ...

    def shapes(self, spec: DecoderSpec) -> dict[str, Shape]:
        """Say which canonical weights there are, and their shapes."""
        ...

    def gguf_name(self, name: str) -> str:
        """Say under which name a GGUF stores a canonical weight."""
        ...

    def gguf_heads(self, name: str, spec: DecoderSpec) -> int | None:
        """Say over how many heads a GGUF interleaves the rows of a weight; None if it does not."""
        ...


def find(name: str, source: str) -> Family:
    """Give the module of the family that a file names; ModelError names the known ones."""
    known = sorted(module.name for module in iter_modules(__path__))
    if name not in known:
        message = (
            f"{source}: model family {name!r} is not supported; supported are {', '.join(known)}"
        )
        raise ModelError(message)
    family: Family = import_module(f"{__name__}.{name}")
    return family
