"""Models: found by name or path, fetched, converted, checked and described."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

PRECISIONS = ("int8", "nbits8", "fp32")
"""How weights can be kept."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""


@dataclass(frozen=True)
class MergedAdapter:
    """An adapter whose changes are in a model's weights."""

    name: str
    sha256: str
    """Of its files."""


InfillOrder: TypeAlias = Literal["PSM", "SPM"]
"""Whether models that fill in read the prefix, or the suffix, first."""


@dataclass(frozen=True)
class SpecialTokens:
    """The ids that end a completion, start a document, and mark an infill; the format of chats."""

    eos_token_ids: tuple[int, ...]
    document_start_token_id: int
    adds_document_start: bool
    infill_token_ids: tuple[int, ...]
    """Ahead of a prefix, a suffix and, mostly, the middle; empty if there are no such tokens."""
    chat_format: str = ""
    """The name of one of `chat.FORMATS`, `none`, or nothing if it was not looked for."""
    infill_order: InfillOrder = "PSM"
