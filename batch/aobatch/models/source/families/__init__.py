"""Model families: one file each, named as the family names itself in its files."""

from importlib import import_module
from pkgutil import iter_modules
from typing import Protocol

from aobatch.errors import ModelError
from aobatch.models.source.fields import Fields
from aobatch.models.spec import DecoderSpec


class Family(Protocol):
    """What a module of this package offers."""

    GGUF_PAIRS_NEIGHBOURS: bool
    """Whether GGUF files order the rows of q and k for a rotation of neighbouring pairs."""
    GAIN_OFFSET: float
    """What has to be added to the gains of norms in safetensors files."""

    def spec_from_gguf(self, fields: Fields, vocab_size: int) -> DecoderSpec:
        """Read sizes and traits from a GGUF's metadata."""
        ...

    def spec_from_config(self, fields: Fields, vocab_size: int) -> DecoderSpec:
        """Read sizes and traits from a config.json."""
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
