"""Tokens with a meaning of their own: the names under which models have them."""

from collections.abc import Mapping
from dataclasses import dataclass

END_NAMES = frozenset(
    (
        *("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>"),
        *("<|end|>", "<|eot|>", "<end_of_turn>", "<|end_of_turn|>", "<end_of_utterance>"),
        *("<eos>", "</s>", "<｜end▁of▁sentence｜>", "▁<EOT>", "<EOT>"),
    )
)
"""The names under which models end a document, a turn or an infill.

Whatever a model's files say, a special token of such a name ends a completion too: models that chat
state one end, and use another.
"""
_ALSO_MARKUP = frozenset(("</s>", "<eos>", "<EOT>"))
"""What is also written in texts; vocabularies have it as a token that is not special."""

DOCUMENT_SEPARATOR = "<|endoftext|>"

INFILL_NAMES: Mapping[str, tuple[str, ...]] = {
    "fim_pre": (
        "<|fim_prefix|>",
        "<fim_prefix>",
        "<fim-prefix>",
        "▁<PRE>",
        "<PRE>",
        "<｜fim▁begin｜>",
    ),
    "fim_suf": (
        "<|fim_suffix|>",
        "<fim_suffix>",
        "<fim-suffix>",
        "▁<SUF>",
        "<SUF>",
        "<｜fim▁hole｜>",
    ),
    "fim_mid": (
        "<|fim_middle|>",
        "<fim_middle>",
        "<fim-middle>",
        "▁<MID>",
        "<MID>",
        "<｜fim▁end｜>",
    ),
}
"""The names of infill tokens by their roles, which are those of GGUF's metadata."""

INFILL_KEYS: Mapping[str, str] = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}
"""What older GGUF files call these roles."""


def is_end(name: str, *, is_special: bool) -> bool:
    """Say whether an added token ends a text, by its name."""
    return name in END_NAMES and (is_special or name not in _ALSO_MARKUP)


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that end a completion, start a document, and mark an infill."""

    end: tuple[int, ...]
    document_start: int
    adds_document_start: bool
    infill: tuple[int, ...]
    """Ahead of a prefix, a suffix and the middle; empty if the model has no such tokens."""
