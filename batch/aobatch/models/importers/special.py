"""Tokens with a meaning of their own: the names under which models have them."""

from collections.abc import Mapping
from dataclasses import dataclass

END_NAMES = frozenset(
    (
        *("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        *("<|end|>", "<end_of_turn>", "<eos>", "</s>"),
    )
)
"""The names under which models end a document or a turn."""

DOCUMENT_SEPARATOR = "<|endoftext|>"

INFILL_NAMES: Mapping[str, tuple[str, ...]] = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>", "▁<PRE>", "<PRE>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>", "▁<SUF>", "<SUF>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>", "▁<MID>", "<MID>"),
}
"""The names of infill tokens by their roles, which are those of GGUF's metadata."""


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that end a completion, start a document, and mark an infill."""

    end: tuple[int, ...]
    document_start: int
    adds_document_start: bool
    infill: tuple[int, ...]
    """Ahead of a prefix, a suffix and the middle; empty if the model has no such tokens."""
