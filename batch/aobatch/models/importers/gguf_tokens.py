"""The vocabulary that a GGUF's metadata lists, checked as a byte-level BPE."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from aobatch.models.fields import Fields, shown
from aobatch.models.tokenizer import byte_level_alphabet

_MODEL = "gpt2"
_CONTROL, _USER_DEFINED = 3, 4
_LAST_KIND = 6
_MAX_SPECIAL = 65_536


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Tokens by id, and the merges that make them; every part of a merge is a token."""

    splitting: str
    """The name of the rule that splits a text before the merges."""
    tokens: Mapping[str, int]
    """Ids by token, in the order of ids."""
    special: Mapping[str, int]
    """Those of the tokens that a text is searched for before anything else."""
    merges: Sequence[tuple[str, str]]


def read_vocabulary(fields: Fields, num_rows: int) -> Vocabulary:
    """Read the lists of tokens, of their types and of merges.

    Raises ModelError for a vocabulary that is not byte-level BPE, has more tokens than the
    embedding has rows, or contradicts itself.
    """
    model = fields.text("tokenizer.ggml.model")
    if model != _MODEL:
        fields.refuse(f"vocabulary {model!r} is not supported, byte-level BPE ({_MODEL}) is")
    tokens = _tokens(fields, num_rows)
    special = _special(fields, tokens)
    _check_alphabet(fields, (token for token in tokens if token not in special))
    return Vocabulary(
        splitting=fields.text("tokenizer.ggml.pre"),
        tokens=tokens,
        special=special,
        merges=_merges(fields, tokens),
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


def _special(fields: Fields, tokens: Mapping[str, int]) -> dict[str, int]:
    listed = fields.integers("tokenizer.ggml.token_type", 0, _LAST_KIND)
    kinds = list(islice(listed, len(tokens) + 1))
    if len(kinds) != len(tokens):
        fields.refuse(f"there are not as many types of tokens as tokens, {len(tokens)}")
    pairs = zip(tokens.items(), kinds, strict=True)
    special = {token: index for (token, index), kind in pairs if kind in (_CONTROL, _USER_DEFINED)}
    if len(special) > _MAX_SPECIAL:
        fields.refuse(f"{len(special)} tokens are special, at most {_MAX_SPECIAL} may be")
    return special


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
