"""A GGUF's vocabulary and merges as a tokenizer.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from aobatch.errors import ModelError
from aobatch.models.fields import Fields
from aobatch.models.importers.gguf_tokens import Vocabulary

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


class _AddedToken(msgspec.Struct, frozen=True, gc=False):
    """A special token, as a tokenizer.json describes it."""

    id: int
    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    special: bool = True


def special_tokens(fields: Fields, vocabulary: Vocabulary) -> SpecialTokens:
    """Find the end and start tokens in the metadata and among the special tokens.

    Raises ModelError if the metadata names none that ends a text, or an id that does not exist.
    """
    tokens = vocabulary.tokens
    end = {index for token, index in vocabulary.special.items() if token in _END_NAMES}
    end.add(_token_id(fields, "eos", vocabulary))
    start = _token_id(fields, "bos", vocabulary, min(end))
    if not fields.flag("tokenizer.ggml.add_bos_token", default=False):
        start = tokens.get(_DOCUMENT_SEPARATOR, start)
    return SpecialTokens(tuple(sorted(end)), start, _infill_tokens(fields, vocabulary))


def tokenizer_json(vocabulary: Vocabulary, source: str) -> bytes:
    """Write the vocabulary in the form that the tokenizers library reads.

    Raises ModelError for an unknown splitting rule.
    """
    rule = vocabulary.splitting
    if rule not in _PRE_TOKENIZERS:
        known = ", ".join(_PRE_TOKENIZERS)
        message = f"{source}: splitting rule {rule!r} is not supported ({known})"
        raise ModelError(message)
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_AddedToken(index, token) for token, index in vocabulary.special.items()],
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
            "vocab": vocabulary.tokens,
            "merges": vocabulary.merges,
        },
    }
    return msgspec.json.encode(document)


def _infill_tokens(fields: Fields, vocabulary: Vocabulary) -> tuple[int, ...]:
    found = []
    for role, names in _INFILL_TOKENS.items():
        named = [vocabulary.tokens[name] for name in names if name in vocabulary.tokens]
        if named or _key(role) in fields:
            found.append(_token_id(fields, role, vocabulary, *named[:1]))
    return tuple(found) if len(found) == len(_INFILL_TOKENS) else ()


def _token_id(fields: Fields, role: str, vocabulary: Vocabulary, default: int | None = None) -> int:
    return fields.integer(_key(role), 0, len(vocabulary.tokens) - 1, default)


def _key(role: str) -> str:
    return f"tokenizer.ggml.{role}_token_id"
