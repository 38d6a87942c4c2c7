"""A tokenizer.json, checked and written anew before the tokenizers library reads it.

A pattern that splits text is tried, in a process of its own, on texts that make bad patterns slow.
"""

import json
import math
import re
import signal
import subprocess
import sys
from base64 import b64decode
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from aobatch.api.json_line import is_too_deep
from aobatch.models.checks import (
    MAX_ADDED_TOKENS,
    MAX_TOKENIZER_BYTES,
    MAX_WIDTH,
    read_regular,
    refusal,
    shown,
)

TokenId: TypeAlias = Annotated[int, Meta(ge=0, lt=MAX_WIDTH)]
Word: TypeAlias = Annotated[str, Meta(min_length=1, max_length=256)]
"""The literal text of a rule, or of a token that was added."""
Flag: TypeAlias = bool | UnsetType
"""What is not there stays so, for the library has defaults of its own."""


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A part of a file that has no other fields than these."""


class Pattern(Part, frozen=True):
    """A pattern, one of the two."""

    String: Word | UnsetType = UNSET
    Regex: Annotated[str, Meta(max_length=1000)] | UnsetType = UNSET


class Normalizer(Part, frozen=True):
    """A rule that changes a text, or several; the library knows which fields a type has."""

    type: Literal[
        "Sequence", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend", "Replace", "Precompiled"
    ]
    normalizers: Annotated[tuple["Normalizer", ...], Meta(max_length=16)] | UnsetType = UNSET
    precompiled_charsmap: Annotated[str, Meta(max_length=MAX_WIDTH)] | UnsetType = UNSET
    prepend: Word | UnsetType = UNSET
    pattern: Pattern | UnsetType = UNSET
    content: Annotated[str, Meta(max_length=8)] | UnsetType = UNSET


class PreTokenizer(Part, frozen=True):
    """A rule that splits a text, or several; the library knows which fields a type has."""

    type: Literal["Sequence", "ByteLevel", "Digits", "Punctuation", "Metaspace", "Split"]
    pretokenizers: Annotated[tuple["PreTokenizer", ...], Meta(max_length=16)] | UnsetType = UNSET
    pattern: Pattern | UnsetType = UNSET
    behavior: (
        Literal["Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"]
        | UnsetType
    ) = UNSET
    invert: Flag = UNSET
    individual_digits: Flag = UNSET
    replacement: Annotated[str, Meta(min_length=1, max_length=1)] | UnsetType = UNSET
    prepend_scheme: Literal["first", "never", "always"] | UnsetType = UNSET
    split: Flag = UNSET
    add_prefix_space: Flag = UNSET
    trim_offsets: Flag = UNSET
    use_regex: Flag = UNSET


class AddedToken(Part, frozen=True):
    """A token that is found in a text ahead of all splitting."""

    id: TokenId
    content: Word
    single_word: Flag = UNSET
    lstrip: Flag = UNSET
    rstrip: Flag = UNSET
    normalized: Flag = UNSET
    special: Flag = UNSET


class BPE(Part, frozen=True, tag=True, tag_field="type"):
    """A vocabulary with the merges that lead to its tokens."""

    vocab: dict[str, TokenId]
    merges: list[str | tuple[str, str]]
    # Dropout would make ids random.
    dropout: Annotated[float, Meta(ge=0, le=0)] | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: Flag = UNSET
    byte_fallback: Flag = UNSET
    ignore_merges: Flag = UNSET


class TokenizerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole tokenizer.json."""

    model: BPE
    added_tokens: Annotated[list[AddedToken], Meta(max_length=MAX_ADDED_TOKENS)]
    normalizer: Normalizer | None = None
    pre_tokenizer: PreTokenizer | None = None
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
    return check_content(read_regular(path, MAX_TOKENIZER_BYTES), path, vocab_size)


def check_content(content: bytes, path: Path, vocab_size: int = MAX_WIDTH) -> TokenizerFile:
    """Read the content of a tokenizer.json, or what the file at a path was made into."""
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
    normalizers = _rules(file.normalizer, "normalizers")
    pre_tokenizers = _rules(file.pre_tokenizer, "pretokenizers")
    if any(rule.type == "Sequence" for rule in (*normalizers, *pre_tokenizers)):
        raise refusal(path, "its rules nest too deep")
    growth = math.prod(max(1, _growth(rule, path)) for rule in normalizers)
    if growth > _MAX_GROWTH:
        raise refusal(path, f"its replacements make a text more than {_MAX_GROWTH} times as long")
    for rule in (*normalizers, *pre_tokenizers):
        if rule.type not in ("Split", "Replace"):
            continue
        pattern = rule.pattern or Pattern()
        if bool(pattern.String) == bool(pattern.Regex):
            raise refusal(path, "it splits by no pattern, or by two at once")
        if pattern.Regex and (reason := why_unsafe(pattern.Regex)):
            raise refusal(path, f"it splits text by {shown(pattern.Regex)}, {reason}")


def _growth(rule: Normalizer, path: Path) -> int:
    """Say how many characters a rule may make of one."""
    if not rule.precompiled_charsmap:
        is_regex = rule.pattern is not UNSET and rule.pattern.Regex is not UNSET
        return len(rule.content or "") + is_regex  # which may match ahead of each character
    try:
        table = b64decode(rule.precompiled_charsmap, validate=True)
    except ValueError as error:
        raise refusal(path, f"its table of characters cannot be read: {error}") from error
    size = 4 + int.from_bytes(table[:4], "little")
    return max(len(text.decode(errors="replace")) for text in table[size:].split(b"\0"))


def _rules(rule: Any, parts: str) -> list[Any]:  # noqa: ANN401 - of either kind
    """Give the rules that a rule consists of, itself if it is no sequence."""
    if rule is None:
        return []
    several = getattr(rule, parts)
    return [rule] if several is UNSET else [*several]


_RUNS = ("a", "A", "Aa", "ǅ", "ʰ", "春", "\u0301", "1", "!", "/", "(", "'", " ", "\n", " \n", "\r")
"""Characters of every kind that patterns tell apart."""

# A pattern has as much processor time for all texts as GPT-2's rule for 25 times as many; then the
# system ends the process. Useful patterns took up to five times as much as that rule.
_TRIAL = """
import json, signal, sys, time
from tokenizers import Regex, pre_tokenizers
pattern, runs = json.load(sys.stdin)
texts = [run * (5_000 // len(run)) + end for run in runs for end in ("", "!")]
known = pre_tokenizers.ByteLevel(add_prefix_space=False)
unknown = pre_tokenizers.Split(Regex(pattern), "isolated")
began = time.process_time()
for text in texts[::10]:
    known.pre_tokenize_str(text)
signal.signal(signal.SIGPROF, signal.SIG_DFL)
signal.setitimer(signal.ITIMER_PROF, 250 * (time.process_time() - began))
for text in texts:
    unknown.pre_tokenize_str(text)
"""


@cache
def why_unsafe(pattern: str) -> str:
    """Try a pattern on long texts of few characters, its own among them; empty if it bears them.

    Some patterns need the cube of a text's length, so that one prompt takes hours; neither the
    library nor a thread that calls it can be told to stop.
    """
    own = {*re.findall(r"\w{2,9}", pattern), *pattern}
    runs = [*dict.fromkeys([*_RUNS, *sorted(own)])]
    # Not from the working folder, which may have anything by the name of a library; in a group of
    # its own, so that who ends a job does not end the trial first, which would look like a refusal.
    tried = subprocess.run(
        [sys.executable, "-P", "-c", _TRIAL],
        input=json.dumps([pattern, runs]),
        capture_output=True,
        text=True,
        check=False,
        process_group=0,
    )
    if tried.returncode == -signal.SIGPROF:
        return "which could take forever"
    return "which the tokenizers library cannot use" if tried.returncode else ""
