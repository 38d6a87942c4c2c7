"""The parts that a tokenizer.json may be made of, as types; whatever else it has is refused.

No part contains itself, so that these types also bound how deep a file nests.
"""

from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType

from aobatch.models.checks.limits import MAX_ADDED_TOKENS, MAX_WIDTH

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
