"""A tokenizer.json, checked and written anew before the tokenizers library reads it."""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec

from aobatch.api.json_line import is_too_deep
from aobatch.errors import ModelError
from aobatch.models.checks import refusal, shown
from aobatch.models.checks.files import read_regular
from aobatch.models.checks.limits import MAX_TOKENIZER_BYTES, MAX_WIDTH
from aobatch.models.checks.splitting_rules import KNOWN_PATTERNS
from aobatch.models.checks.tokenizer_parts import (
    Normalizer,
    Normalizers,
    PreTokenizer,
    PreTokenizers,
    Replace,
    Split,
    TokenizerFile,
)

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
