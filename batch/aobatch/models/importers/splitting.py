"""How byte-level vocabularies split a text before the merges, by the names that GGUF files use."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BYTE_LEVEL: Mapping[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_BYTES_ALONE = {**BYTE_LEVEL, "use_regex": False}
_DIGITS = {"type": "Digits", "individual_digits": True}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Splitting:
    """What a tokenizer.json says of a rule."""

    pre_tokenizers: tuple[Mapping[str, Any], ...]
    normalizer: Mapping[str, Any] | None = None
    ignores_merges: bool = False
    """Whether a piece that is a token is taken as it is."""


def _by_regex(pattern: str) -> tuple[Mapping[str, Any], ...]:
    rule = {"Regex": pattern}
    split = {"type": "Split", "pattern": rule, "behavior": "Isolated", "invert": False}
    return split, _BYTES_ALONE


_GPT2 = Splitting((BYTE_LEVEL,))
_SINGLE_DIGITS = Splitting((_DIGITS, BYTE_LEVEL))
_LLAMA = Splitting(_by_regex(_LLAMA3), ignores_merges=True)
_QWEN = Splitting(_by_regex(_QWEN2), normalizer={"type": "NFC"})

SPLITTINGS: Mapping[str, Splitting] = {
    **dict.fromkeys(
        (
            "gpt-2",
            "gpt2",
            "phi-2",
        ),
        _GPT2,
    ),
    **dict.fromkeys(("smollm", "starcoder", "refact"), _SINGLE_DIGITS),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "dbrx", "smaug-bpe"), _LLAMA),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), _QWEN),
    "tekken": Splitting(_by_regex(_TEKKEN), ignores_merges=True),
}
