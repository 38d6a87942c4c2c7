"""Tokenizer files for tests: small vocabularies under the rules of well-known families."""

import copy
import json
from pathlib import Path
from typing import Any

Document = dict[str, Any]

_TINY = json.loads(
    (Path(__file__).parent.parent / "data/tiny-llama/tokenizer.json").read_text(encoding="utf-8")
)
_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
_END = {"id": 435, "content": "<|end|>", **_FLAGS, "special": True}
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
_WORDS = _BYTES | {"use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_SPACES = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False}
_UNDERSCORE = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
_TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "<|end|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [435], "tokens": ["<|end|>"]}},
}


def document(kind: Document) -> Document:
    """Give a copy that can be changed."""
    return copy.deepcopy(kind)


def _byte_level(*pre_tokenizers: Document, normalizer: Document | None = None) -> Document:
    return _TINY | {
        "added_tokens": [*_TINY["added_tokens"], _END],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": list(pre_tokenizers)},
        "post_processor": {"type": "Sequence", "processors": [_BYTES, _TEMPLATE]},
    }


def _split(regex: str, *, removes: bool = False) -> Document:
    behavior = "Removed" if removes else "Isolated"
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": removes}


def _sentence_pieces(normalizer: Document | None, pre_tokenizer: Document | None) -> Document:
    names = [
        "<unk>",
        "<|end|>",
        "▁",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        *"Itsrow,.",
        "▁r",
    ]
    return _TINY | {
        "added_tokens": [_END | {"id": 1}],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": {name: index for index, name in enumerate(names)},
            "merges": ["▁ r"],
        },
    }


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA_3_REGEX = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}[\r\n]*|{_BLANKS}"
KINDS: dict[str, Document] = {
    "gpt-2": _byte_level(_WORDS),
    "gpt-2-spelled-out": _byte_level(
        _split(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"),
        _BYTES,
    ),
    "smollm": _byte_level(_DIGITS, _WORDS),
    "llama-3": _byte_level(_split(_LLAMA_3_REGEX), _BYTES),
    "olmo-2": _byte_level(_split(_LLAMA_3_REGEX, removes=True), _BYTES),
    "qwen2": _byte_level(
        _split(rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SIGNS}[\r\n]*|{_BLANKS}"),
        _BYTES,
        normalizer={"type": "NFC"},
    ),
    "qwen3.5": _byte_level(
        _split(
            rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
        ),
        _BYTES,
    ),
    "gpt-oss": _byte_level(
        _split(
            rf"{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
            rf"|\p{{N}}{{1,3}}|{_SIGNS}[\r\n/]*|{_BLANKS}"
        ),
        _BYTES,
    ),
    "mistral-nemo": _byte_level(
        _split(rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|\p{{N}}|{_SIGNS}[\r\n/]*|{_BLANKS}"),
        _BYTES,
    ),
    "deepseek-v3": _byte_level(
        _split(r"\p{N}{1,3}"),
        _split("[一-龥぀-ゟ゠-ヿ]+"),
        _split(
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+"
            "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*"
            "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
        ),
        _BYTES,
    ),
    "falcon": _byte_level(
        {"type": "Punctuation", "behavior": "Contiguous"},
        _WORDS,
        {"type": "Digits", "individual_digits": False},
        _split("[0-9][0-9][0-9]"),
    ),
    "bloom": _byte_level(_split(r" ?[^(\s|[.,!?…。，、।۔،])]+"), _BYTES),
    "gemma": _sentence_pieces(
        _UNDERSCORE,
        {
            "type": "Split",
            "pattern": {"String": " "},
            "behavior": "MergedWithPrevious",
            "invert": False,
        },
    ),
    "llama-2": _sentence_pieces(
        {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, _UNDERSCORE]},
        None,
    ),
    "mistral": _sentence_pieces(None, _SPACES),
}
