"""A GGUF's vocabulary and merges as a tokenizer.json, and its special tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import chain, islice, repeat
from typing import Any

import msgspec

from aobatch.errors import ModelError
from aobatch.models.checks import shown
from aobatch.models.source.fields import Fields
from aobatch.models.source.tokenizer_json import (
    DOCUMENT_SEPARATOR,
    INFILL_KEYS,
    INFILL_NAMES,
    SpecialTokens,
    is_end,
)
from aobatch.models.tokenizer import byte_level_alphabet

_BYTE_LEVEL, _PIECES = "gpt2", "llama"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_LAST_KIND = 6
_MAX_SPECIAL = 65_536
_MAX_PIECE = 256


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, and the merges that make them; every part of a merge is a token."""

    tokens: Mapping[str, int]
    """Ids by token, in the order of ids."""
    special: Mapping[str, int]
    """Those of the tokens that a text is searched for before anything else."""
    merges: Sequence[tuple[str, str]]
    splitting: str = ""
    """The name of the rule that splits a text before the merges; none if tokens are pieces."""
    user_defined: Mapping[str, int] | None = None
    """Pieces that a text is searched for, and that stand for themselves; None if byte-level."""
    unknown: str | None = None
    adds_space: bool = False
    """Whether a text gets a space ahead."""


def read_vocabulary(fields: Fields, num_rows: int) -> Vocabulary:
    """Read the lists of tokens, of their types and of merges or scores.

    Raises ModelError for a vocabulary that is of another kind, has more tokens than the embedding
    has rows, or contradicts itself.
    """
    model = fields.text("tokenizer.ggml.model")
    if model not in (_BYTE_LEVEL, _PIECES):
        fields.refuse(
            f"vocabulary {model!r} is not supported, byte-level BPE ({_BYTE_LEVEL}) and pieces "
            f"with scores ({_PIECES}) are"
        )
    tokens = _tokens(fields, num_rows)
    kinds = _kinds(fields, tokens)
    if model == _PIECES:
        return _piece_tokens(fields, tokens, kinds)
    special = _of_kind(tokens, kinds, _CONTROL, _USER_DEFINED)
    _check_alphabet(fields, (token for token in tokens if token not in special))
    return Vocabulary(
        tokens, special, _merges(fields, tokens), splitting=fields.text("tokenizer.ggml.pre")
    )


def _tokens(fields: Fields, num_rows: int) -> dict[str, int]:
    tokens: dict[str, int] = {}
    for index, token in enumerate(fields.texts("tokenizer.ggml.tokens")):
        if index >= num_rows:
            fields.refuse(f"there are more tokens than the {num_rows} rows of embeddings")
        if token in tokens:
            fields.refuse(f"token {shown(token)} has two ids, {tokens[token]} and {index}")
        tokens[token] = index
    if not tokens:
        fields.refuse("there are no tokens")
    return tokens


def _kinds(fields: Fields, tokens: Mapping[str, int]) -> bytes:
    listed = fields.integers("tokenizer.ggml.token_type", 0, _LAST_KIND)
    kinds = bytes(islice(listed, len(tokens) + 1))
    if len(kinds) != len(tokens):
        fields.refuse(f"there are not as many types of tokens as tokens, {len(tokens)}")
    if (count := kinds.count(_CONTROL) + kinds.count(_USER_DEFINED)) > _MAX_SPECIAL:
        fields.refuse(f"{count} tokens are special, at most {_MAX_SPECIAL} may be")
    return kinds


def _of_kind(tokens: Mapping[str, int], kinds: bytes, *wanted: int) -> dict[str, int]:
    return {token: index for token, index in tokens.items() if kinds[index] in wanted}


def _check_alphabet(fields: Fields, tokens: Iterator[str]) -> None:
    alphabet = set(byte_level_alphabet())
    for token in tokens:
        if not alphabet.issuperset(token):
            fields.refuse(f"token {shown(token)} does not stand for bytes")


def _merges(fields: Fields, tokens: Mapping[str, int]) -> list[tuple[str, str]]:
    names = {token: token for token in tokens}  # so that a merge takes two references
    merges = []
    for merge in fields.texts("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not left or not right or not {left, right, left + right} <= names.keys():
            fields.refuse(f"merge {shown(merge)} is not of two tokens that make a third")
        merges.append((names[left], names[right]))
    return merges


def _piece_tokens(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> Vocabulary:
    for key in ("precompiled_charsmap", "remove_extra_whitespaces"):
        if fields.get(f"tokenizer.ggml.{key}"):
            fields.refuse(f"the vocabulary changes texts before it splits them ({key})")
    lost = [byte for byte in range(256) if f"<0x{byte:02X}>" not in tokens]
    if lost:
        fields.refuse(f"there is no token for byte {lost[0]}, as pieces need it")
    return Vocabulary(
        tokens,
        _of_kind(tokens, kinds, _CONTROL, _UNKNOWN),
        _merges_by_score(fields, tokens, kinds),
        user_defined=_of_kind(tokens, kinds, _USER_DEFINED),
        unknown=next(iter(_of_kind(tokens, kinds, _UNKNOWN)), None),
        adds_space=fields.flag("tokenizer.ggml.add_space_prefix", default=True),
    )


def _merges_by_score(
    fields: Fields, tokens: Mapping[str, int], kinds: bytes
) -> list[tuple[str, str]]:
    """Find every two tokens that make a third, in the order of what they make."""
    scores = list(islice(fields.numbers("tokenizer.ggml.scores"), len(tokens) + 1))
    if len(scores) != len(tokens):
        fields.refuse(f"there are not as many scores as tokens, {len(tokens)}")
    names = {token: token for token in tokens}
    merges = []
    for token, index in tokens.items():
        if kinds[index] in (_CONTROL, _UNKNOWN, _BYTE):
            continue
        if len(token) > _MAX_PIECE:
            fields.refuse(f"token {shown(token)} is longer than {_MAX_PIECE} characters")
        for cut in range(1, len(token)):
            left, right = names.get(token[:cut]), names.get(token[cut:])
            if left and right:
                merges.append((left, right))

    def order(merge: tuple[str, str]) -> tuple[float, int, int]:
        left, right = merge
        return scores[tokens[left + right]], len(left), len(right)

    return sorted(merges, key=order, reverse=True)


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
