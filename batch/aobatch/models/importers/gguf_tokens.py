"""The vocabulary that a GGUF's metadata lists: tokens, their types, and the merges that make them.

Byte-level vocabularies ("gpt2") list their merges. Those of pieces ("llama") list a score for each
token; a merge is then any two tokens that make a third, the best score first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from aobatch.models.fields import Fields, shown
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
        return _pieces(fields, tokens, kinds)
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


def _pieces(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> Vocabulary:
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
