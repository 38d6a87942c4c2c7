"""A GGUF's vocabulary and merges as a tokenizer.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aobatch.errors import ModelError

_CONTROL, _USER_DEFINED = 3, 4

# The names under which models end a document or a turn.
_END_NAMES = frozenset(
    ("<|endoftext|>", "<|im_end|>", "<|eot_id|>", "<|end_of_text|>", "<end_of_turn>", "</s>")
)
_DOCUMENT_SEPARATOR = "<|endoftext|>"

# Metadata keys of infill tokens, and the names they have in vocabularies.
_INFILL_TOKENS: Mapping[str, tuple[str, ...]] = {
    "fim_pre": ("<|fim_prefix|>", "<fim_prefix>", "<fim-prefix>"),
    "fim_suf": ("<|fim_suffix|>", "<fim_suffix>", "<fim-suffix>"),
    "fim_mid": ("<|fim_middle|>", "<fim_middle>", "<fim-middle>"),
}

_BYTE_LEVEL = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}
_DIGITS = {"type": "Digits", "individual_digits": True}

# How each named pre-tokenizer splits text before the merges.
_PRE_TOKENIZERS: Mapping[str, list[dict[str, Any]]] = {
    "smollm": [_DIGITS, _BYTE_LEVEL],
    "gpt-2": [_BYTE_LEVEL],
}


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    """The ids that end a completion, start a document, and mark an infill."""

    end: tuple[int, ...]
    document_start: int
    infill: tuple[int, ...]
    """Ahead of a prefix, a suffix and the middle; empty if the model has no such tokens."""


def special_tokens(metadata: Mapping[str, Any]) -> SpecialTokens:
    """Find the end and start tokens in the metadata and among the control tokens."""
    tokens = metadata["tokenizer.ggml.tokens"]
    end = {index for index in _special_ids(metadata) if tokens[index] in _END_NAMES}
    end.add(int(metadata["tokenizer.ggml.eos_token_id"]))
    start = int(metadata.get("tokenizer.ggml.bos_token_id", min(end)))
    if not metadata.get("tokenizer.ggml.add_bos_token", False) and _DOCUMENT_SEPARATOR in tokens:
        start = tokens.index(_DOCUMENT_SEPARATOR)
    return SpecialTokens(tuple(sorted(end)), start, _infill_tokens(metadata))


def tokenizer_json(metadata: Mapping[str, Any]) -> bytes:
    """Write the vocabulary in the form that the tokenizers library reads.

    Raises ModelError for a vocabulary that is not byte-level BPE, or an unknown splitting rule.
    """
    model, rule = metadata.get("tokenizer.ggml.model"), str(metadata.get("tokenizer.ggml.pre"))
    if model != "gpt2" or rule not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        message = f"vocabulary {model!r} with splitting rule {rule!r} is not supported ({known})"
        raise ModelError(message)
    tokens = metadata["tokenizer.ggml.tokens"]
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added_token(index, tokens[index]) for index in _special_ids(metadata)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _PRE_TOKENIZERS[rule]},
        "post_processor": None,
        "decoder": _BYTE_LEVEL,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        },
    }
    return msgspec.json.encode(document)


def _infill_tokens(metadata: Mapping[str, Any]) -> tuple[int, ...]:
    tokens, found = metadata["tokenizer.ggml.tokens"], []
    for key, names in _INFILL_TOKENS.items():
        named = (tokens.index(name) for name in names if name in tokens)
        found.append(metadata.get(f"tokenizer.ggml.{key}_token_id", next(named, None)))
    return () if None in found else tuple(map(int, found))


def _special_ids(metadata: Mapping[str, Any]) -> list[int]:
    types = metadata["tokenizer.ggml.token_type"]
    return [index for index, kind in enumerate(types) if kind in (_CONTROL, _USER_DEFINED)]


def _added_token(index: int, content: str) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": index, "content": content, **flags, "special": True}
