"""A GGUF's vocabulary and merges as a tokenizer.json, and its special tokens."""

from collections.abc import Iterator, Mapping
from io import BytesIO
from itertools import chain, repeat
from typing import Any

import msgspec

from aobatch.errors import ModelError
from aobatch.models.fields import Fields
from aobatch.models.importers.gguf_tokens import Vocabulary
from aobatch.models.importers.special import (
    DOCUMENT_SEPARATOR,
    INFILL_KEYS,
    INFILL_NAMES,
    SpecialTokens,
    is_end,
)
from aobatch.models.importers.splitting import BYTE_LEVEL, SPLITTINGS

_SPACE = "▁"
"""What pieces have in place of a space."""
_ENDS = ("eot", "eom")


class _AddedToken(msgspec.Struct, frozen=True, gc=False):
    """A token that a text is searched for first, as a tokenizer.json describes it."""

    id: int
    content: str
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


def special_tokens(fields: Fields, vocabulary: Vocabulary) -> SpecialTokens:
    """Find the end and start tokens in the metadata and among the tokens that are added.

    Raises ModelError if the metadata names none that ends a text, or an id that does not exist.
    """
    tokens = vocabulary.tokens
    others = vocabulary.user_defined or {}
    end = {i for token, i in vocabulary.special.items() if is_end(token, is_special=True)}
    end |= {i for token, i in others.items() if is_end(token, is_special=False)}
    end.add(_token_id(fields, "eos", vocabulary))
    end |= {_token_id(fields, role, vocabulary) for role in _ENDS if _key(role) in fields}
    start = _token_id(fields, "bos", vocabulary, min(end))
    # Vocabularies of pieces begin a text with a token of its own unless they say otherwise.
    is_pieces = vocabulary.user_defined is not None
    adds_start = fields.flag("tokenizer.ggml.add_bos_token", default=is_pieces)
    if not adds_start:
        start = tokens.get(DOCUMENT_SEPARATOR, start)
    return SpecialTokens(tuple(sorted(end)), start, adds_start, _infill_tokens(fields, vocabulary))


def tokenizer_json(vocabulary: Vocabulary, source: str) -> bytes:
    """Write the vocabulary in the form that the tokenizers library reads.

    Raises ModelError for an unknown splitting rule.
    """
    parts = _byte_level(vocabulary, source) if vocabulary.splitting else _pieces(vocabulary)
    plain = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    content = BytesIO()
    content.write(b'{"added_tokens":[')
    # There may be many, so they are not all described at the same time.
    for separator, token in zip(
        chain([b""], repeat(b",")), _added_tokens(vocabulary), strict=False
    ):
        content.write(separator + msgspec.json.encode(token))
    content.write(b"]," + msgspec.json.encode({**plain, **parts})[1:])
    return content.getvalue()


def _added_tokens(vocabulary: Vocabulary) -> Iterator[_AddedToken]:
    """Describe the tokens that a text is searched for."""
    for token, index in vocabulary.special.items():
        yield _AddedToken(index, token)
    for token, index in (vocabulary.user_defined or {}).items():
        yield _AddedToken(index, token, special=False)


def _byte_level(vocabulary: Vocabulary, source: str) -> dict[str, Any]:
    rule = vocabulary.splitting
    if rule not in SPLITTINGS:
        known = ", ".join(SPLITTINGS)
        message = f"{source}: splitting rule {rule!r} is not supported ({known})"
        raise ModelError(message)
    splitting = SPLITTINGS[rule]
    return {
        "normalizer": splitting.normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitting.pre_tokenizers},
        "decoder": BYTE_LEVEL,
        "model": _model(vocabulary, ignore_merges=splitting.ignores_merges),
    }


def _pieces(vocabulary: Vocabulary) -> dict[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    ahead = [{"type": "Prepend", "prepend": _SPACE}] if vocabulary.adds_space else []
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*ahead, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": _model(
            vocabulary, unk_token=vocabulary.unknown, fuse_unk=True, byte_fallback=True
        ),
    }


def _model(vocabulary: Vocabulary, **settings: object) -> Mapping[str, object]:
    plain: dict[str, object] = {
        "type": "BPE",
        "dropout": None,
        "unk_token": None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": False,
        "byte_fallback": False,
        "ignore_merges": False,
    }
    return plain | settings | {"vocab": vocabulary.tokens, "merges": vocabulary.merges}


def _infill_tokens(fields: Fields, vocabulary: Vocabulary) -> tuple[int, ...]:
    found = []
    for role, names in INFILL_NAMES.items():
        named = [vocabulary.tokens[name] for name in names if name in vocabulary.tokens]
        stated = role if _key(role) in fields else INFILL_KEYS[role]
        if named or _key(stated) in fields:
            found.append(_token_id(fields, stated, vocabulary, *named[:1]))
    return tuple(found) if len(found) == len(INFILL_NAMES) else ()


def _token_id(fields: Fields, role: str, vocabulary: Vocabulary, default: int | None = None) -> int:
    return fields.integer(_key(role), 0, len(vocabulary.tokens) - 1, default)


def _key(role: str) -> str:
    return f"tokenizer.ggml.{role}_token_id"
