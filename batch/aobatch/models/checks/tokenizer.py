"""A tokenizer.json, checked and written anew before the tokenizers library reads it."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from aobatch.api.json_line import is_too_deep
from aobatch.errors import ModelError
from aobatch.models.checks import (
    MAX_ADDED_TOKENS,
    MAX_TOKENIZER_BYTES,
    MAX_WIDTH,
    read_regular,
    refusal,
    shown,
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

_GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA_3 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
_QWEN_2 = rf"{_CONTRACTIONS}|{_LEAD}\p{{L}}+|\p{{N}}|{_SIGNS}|{_SPACES}"
_QWEN_3_5 = (
    rf"{_CONTRACTIONS}|{_LEAD}[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*"
    rf"|{_SPACES}"
)
_O200K = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_LEAD}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
_TEKKEN = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+|{_LEAD}{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
)
# DeepSeek's have the characters themselves where others have \r and \n.
_DEEPSEEK = (
    "\\p{N}{1,3}",
    "[一-龥぀-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
    "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
)
_FALCON = "[0-9][0-9][0-9]"
_BLOOM = r" ?[^(\s|[.,!?…。，、।۔،])]+"

KNOWN_PATTERNS = frozenset(
    {_GPT_2, _LLAMA_3, _QWEN_2, _QWEN_3_5, _O200K, _TEKKEN, *_DEEPSEEK, _FALCON, _BLOOM, " "}
)


TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_WIDTH)]
Word: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]
"""The literal text of a rule, or of a token that was added."""
Flag: TypeAlias = bool | UnsetType
"""What is not there stays so, for the library has defaults of its own."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part without a type of its own."""


class Typed(Part, frozen=True, tag=True, tag_field="type"):
    """A part whose field `type` says which one it is."""


class Literally(Part, frozen=True):
    """A pattern that is searched for as it stands."""

    String: Word


class Pattern(Part, frozen=True):
    """A pattern, one of the two."""

    String: Word | UnsetType = UNSET
    Regex: str | UnsetType = UNSET


Behavior: TypeAlias = Literal[
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"
]


class NFC(Typed, frozen=True):
    """Unicode's form C."""


class NFD(Typed, frozen=True):
    """Unicode's form D."""


class NFKC(Typed, frozen=True):
    """Unicode's form KC."""


class NFKD(Typed, frozen=True):
    """Unicode's form KD."""


class Lowercase(Typed, frozen=True):
    """Small letters."""


class Prepend(Typed, frozen=True):
    """A text ahead of the text."""

    prepend: Word


class Replace(Typed, frozen=True):
    """A literal text replaced by another."""

    pattern: Literally
    content: Annotated[str, msgspec.Meta(max_length=8)]


Normalizer: TypeAlias = NFC | NFD | NFKC | NFKD | Lowercase | Prepend | Replace


class Normalizers(Typed, frozen=True, tag="Sequence"):
    """Normalizers, one after the other."""

    normalizers: Annotated[list[Normalizer], msgspec.Meta(max_length=16)]


class ByteLevel(Typed, frozen=True):
    """Bytes as printable characters, after GPT-2's splitting if use_regex says so."""

    add_prefix_space: bool
    trim_offsets: Flag = UNSET
    use_regex: Flag = UNSET


class Digits(Typed, frozen=True):
    """Digits apart from all else."""

    individual_digits: bool


class Punctuation(Typed, frozen=True):
    """Punctuation apart from all else."""

    behavior: Behavior | UnsetType = UNSET


class Metaspace(Typed, frozen=True):
    """Spaces as a visible character."""

    replacement: Annotated[str, msgspec.Meta(min_length=1, max_length=1)]
    prepend_scheme: Literal["first", "never", "always"] | UnsetType = UNSET
    add_prefix_space: Flag = UNSET
    split: Flag = UNSET


class Split(Typed, frozen=True):
    """Text split where a pattern matches."""

    pattern: Pattern
    behavior: Behavior
    invert: Flag = UNSET


PreTokenizer: TypeAlias = ByteLevel | Digits | Punctuation | Metaspace | Split


class PreTokenizers(Typed, frozen=True, tag="Sequence"):
    """Pre-tokenizers, one after the other."""

    pretokenizers: Annotated[list[PreTokenizer], msgspec.Meta(max_length=16)]


class AddedToken(Part, frozen=True):
    """A token that is found in a text ahead of all splitting."""

    id: TokenId
    content: Word
    single_word: Flag = UNSET
    lstrip: Flag = UNSET
    rstrip: Flag = UNSET
    normalized: Flag = UNSET
    special: Flag = UNSET


class BPE(Typed, frozen=True):
    """A vocabulary with the merges that lead to its tokens."""

    vocab: dict[str, TokenId]
    merges: list[str | tuple[str, str]]
    # Dropout would make ids random.
    dropout: Annotated[float, msgspec.Meta(ge=0, le=0)] | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: Flag = UNSET
    byte_fallback: Flag = UNSET
    ignore_merges: Flag = UNSET


class TokenizerFile(Part, frozen=True):
    """A whole tokenizer.json."""

    model: BPE
    added_tokens: Annotated[list[AddedToken], msgspec.Meta(max_length=MAX_ADDED_TOKENS)]
    normalizer: Normalizer | Normalizers | None = None
    pre_tokenizer: PreTokenizer | PreTokenizers | None = None
    version: str = "1.0"
    # None of these shapes the ids of a text to which nothing is added.
    truncation: Any = None
    padding: Any = None
    post_processor: Any = None
    decoder: Any = None


_MAX_GROWTH = 64
"""How many times as long replacements may make a text."""


def check_tokenizer(path: Path, vocab_size: int = MAX_WIDTH) -> TokenizerFile:
    """Read a tokenizer.json whose ids lie below vocab_size; ModelError if anything is odd.

    What comes back is all that the library may see (`msgspec.json.encode` writes it): a repeated
    key or another reading of a number cannot make it read something that was not checked.
    """
    content = read_regular(path, MAX_TOKENIZER_BYTES)
    try:
        file = msgspec.json.decode(content, type=TokenizerFile)
        ignored = msgspec.json.encode(
            [file.truncation, file.padding, file.post_processor, file.decoder]
        )
    except (msgspec.DecodeError, ValueError) as error:
        raise refusal(path, f"it is not a tokenizer of a known kind: {error}") from error
    except RecursionError as error:
        raise refusal(path, "it nests too deep") from error
    if is_too_deep(ignored):
        raise refusal(path, "it nests too deep")
    _check_ids(file, path, vocab_size)
    _check_rules(file, path)
    return msgspec.structs.replace(
        file, truncation=None, padding=None, post_processor=None, decoder=None
    )


def _check_ids(file: TokenizerFile, path: Path, vocab_size: int) -> None:
    vocabulary = file.model.vocab
    tokens = set(vocabulary.values())
    if len(tokens) != len(vocabulary):
        raise refusal(path, "two tokens of its vocabulary have the same id")
    added = {token.content: token.id for token in file.added_tokens}
    if len(added) != len(file.added_tokens) or len(set(added.values())) != len(added):
        raise refusal(path, "a token is added twice")
    for content, token_id in added.items():
        if vocabulary.get(content, token_id) != token_id or (
            content not in vocabulary and token_id in tokens
        ):
            raise refusal(path, f"the added token {shown(content)} has the id of another token")
    largest = max([*tokens, *added.values()], default=0)
    if largest >= vocab_size:
        raise refusal(path, f"token id {largest} is outside the model's {vocab_size} tokens")


def _check_rules(file: TokenizerFile, path: Path) -> None:
    replaced = [rule.content for rule in _normalizers(file) if isinstance(rule, Replace)]
    if math.prod(max(1, len(content)) for content in replaced) > _MAX_GROWTH:
        raise refusal(path, f"its replacements make a text more than {_MAX_GROWTH} times as long")
    for rule in _pre_tokenizers(file):
        if not isinstance(rule, Split):
            continue
        pattern = rule.pattern
        if bool(pattern.String) == bool(pattern.Regex):
            raise refusal(path, "it splits by no pattern, or by two at once")
        if pattern.Regex and pattern.Regex not in KNOWN_PATTERNS:
            raise _unknown_pattern(path, pattern.Regex)


def _unknown_pattern(path: Path, pattern: str) -> ModelError:
    message = (
        f"{path} splits text by {shown(pattern)}, which is no pattern of a known model family and "
        "could take forever; use a model of a known family"
    )
    return ModelError(message)


def _normalizers(file: TokenizerFile) -> Sequence[Normalizer]:
    match file.normalizer:
        case None:
            return ()
        case Normalizers(normalizers):
            return normalizers
        case one:
            return (one,)


def _pre_tokenizers(file: TokenizerFile) -> Sequence[PreTokenizer]:
    match file.pre_tokenizer:
        case None:
            return ()
        case PreTokenizers(pretokenizers):
            return pretokenizers
        case one:
            return (one,)
