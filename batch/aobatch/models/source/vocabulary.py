"""A vocabulary, whichever file lists it, as a tokenizer.json; and the rules that split texts."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import msgspec

from aobatch.errors import ModelError
from aobatch.models.tokenizer import SPACE


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
    stripping: frozenset[str] = frozenset()
    """Special tokens that swallow the spaces behind them."""


MAX_PIECE = 256


def merges_by_score(
    tokens: Mapping[str, int], scores: Sequence[float], makes: Sequence[bool]
) -> list[tuple[str, str]]:
    """Find every two tokens that make a third, in the order of the scores of what they make.

    `makes` says of which ids this is asked.
    """
    names = {token: token for token in tokens}  # so that a merge takes two references
    merges = []
    for token, index in tokens.items():
        for cut in range(1, len(token)) if makes[index] and len(token) <= MAX_PIECE else ():
            left, right = names.get(token[:cut]), names.get(token[cut:])
            if left and right:
                merges.append((left, right))

    def order(merge: tuple[str, str]) -> tuple[float, int, int]:
        left, right = merge
        return scores[tokens[left + right]], len(left), len(right)

    return sorted(merges, key=order, reverse=True)


_BYTES: Mapping[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}"
_SEED = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|\s*[\r\n]+|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = (rf"{_UPPER}*{_LOWER}+", rf"{_UPPER}+{_LOWER}*")
_SIGNS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|\s*[\r\n]+|{_SPACES}"
_TEKKEN = "|".join([*(rf"[^\r\n\p{{L}}\p{{N}}]?{case}" for case in _CASES), r"\p{N}", _SIGNS])
_GPT4O = "|".join(
    [
        *(rf"[^\r\n\p{{L}}\p{{N}}]?{case}{_CONTRACTIONS}?" for case in _CASES),
        rf"\p{{N}}{{1,3}}|{_SIGNS}",
    ]
)
_HAN = r"[\x{0800}-\x{9fa5}\x{ac00}-\x{d7ff}]+"
_HAN_OR_KANA = r"[\x{4e00}-\x{9fa5}\x{3040}-\x{30ff}]+"
# Letters of two cases, without what the list of 2023 does not have.
_CASED = (
    r"\s?[\p{Lu}\p{Ll}\p{Lt}&&[^\x{560}-\x{588}\x{10c7}-\x{10ff}\x{1c80}-\x{1c8a}\x{2d00}-\x{2d2d}"
    r"\x{a790}-\x{a7fa}\x{ab30}-\x{ab68}\x{10570}-\x{105bc}\x{10d50}-\x{10d85}\x{16e40}-\x{16e7f}"
    r"\x{1d400}-\x{1d7cb}\x{1df00}-\x{1df28}]]+"
)
_ASCII_SIGNS = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]"
_DEEPSEEK3 = (
    rf"{_ASCII_SIGNS}[A-Za-z]+|[^\r\n\p{{L}}\p{{P}}\p{{S}}]?[\p{{L}}\p{{M}}]+|"
    rf" ?[\p{{P}}\p{{S}}]+[\r\n]*|\s*[\r\n]+|{_SPACES}"
)


_BPE: Mapping[str, Any] = {
    "type": "BPE",
    "dropout": None,
    "unk_token": None,
    "continuing_subword_prefix": None,
    "end_of_word_suffix": None,
    "fuse_unk": False,
    "byte_fallback": False,
    "ignore_merges": False,
}


def _rule(
    *pre_tokenizers: Mapping[str, Any],
    normalizer: Mapping[str, Any] | None = None,
    ignores_merges: bool = False,
) -> Mapping[str, Any]:
    """Say in the words of a tokenizer.json how texts are split.

    A piece that is a token is taken as it is if merges are ignored.
    """
    return {
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "decoder": _BYTES,
        "model": {**_BPE, "ignore_merges": ignores_merges},
    }


def _by_regex(*patterns: str, digits: bool = False) -> tuple[Mapping[str, Any], ...]:
    """Split by patterns one after the other, then digit from digit."""
    kind = {"type": "Split", "behavior": "Isolated", "invert": False}
    splits = ({**kind, "pattern": {"Regex": pattern}} for pattern in patterns)
    return *splits, *((_DIGITS,) if digits else ()), {**_BYTES, "use_regex": False}


_DIGITS: Mapping[str, Any] = {"type": "Digits", "individual_digits": True}
_NFC: Mapping[str, Any] = {"type": "NFC"}
_RULES = {
    "gpt-2 gpt2 phi-2 mellum exaone4 a.x-4.0 gigachat trillion granite-docling": _rule(_BYTES),
    "olmo mpt": _rule(_BYTES, normalizer=_NFC),
    "smollm starcoder refact codeshell exaone minerva-7b mellum2": _rule(_DIGITS, _BYTES),
    "command-r": _rule(_DIGITS, _BYTES, normalizer=_NFC),
    "llama-bpe llama3 llama-v3 dbrx smaug-bpe falcon3 pixtral midm-2.0": _rule(
        *_by_regex(_LLAMA3), ignores_merges=True
    ),
    "glm4 chatglm-bpe": _rule(*_by_regex(_LLAMA3)),
    "qwen2 deepseek-r1-qwen stablelm2": _rule(*_by_regex(_QWEN2), normalizer=_NFC),
    "megrez kormo": _rule(*_by_regex(_QWEN2)),
    "minicpm5": _rule(
        *_by_regex(r"\p{N}{1,3}", rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}+|{_REST}"), ignores_merges=True
    ),
    "viking": _rule(*_by_regex(r" ?[^(\s|.,!?…。，、।۔،)]+", digits=True)),
    "seed-coder": _rule(*_by_regex(_SEED)),
    "tekken": _rule(*_by_regex(_TEKKEN), ignores_merges=True),
    "gpt-4o llama4 kanana2": _rule(*_by_regex(_GPT4O)),
    "tiny_aya": _rule(*_by_regex(r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O)),
    "deepseek-llm": _rule(
        *_by_regex(
            r"[\r\n]",
            _CASED,
            r"\s?[!-/:-~\x{ff01}-\x{ff0f}\x{ff1a}-\x{ff5e}\x{2018}-\x{201f}\x{3000}-\x{3002}]+",
            r"\s+$",
            _HAN,
            r"\p{N}+",
        )
    ),
    "deepseek-coder": _rule(*_by_regex(r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _HAN, digits=True)),
    "deepseek-v3": _rule(*_by_regex(r"\p{N}{1,3}", _HAN_OR_KANA, _DEEPSEEK3)),
}
SPLITTINGS: Mapping[str, Mapping[str, Any]] = {
    name: rule for names, rule in _RULES.items() for name in names.split()
}
"""How texts are split, by the name that GGUF files have for it."""

_BY_TOKEN = {
    "<|begin_of_text|>": "llama-bpe",
    "<｜fim▁hole｜>": "deepseek-coder",
    "<｜begin▁of▁sentence｜>": "deepseek-llm",
}
_BY_FAMILY = {
    "qwen2": "qwen2",
    "starcoder2": "starcoder",
    "phi2": "phi-2",
    "gptneox": "olmo",
    "olmo": "olmo",
}
_LARGE = 2**16


def unnamed_splitting(family: str, tokens: Mapping[str, int]) -> str:
    """Tell the rule of a GGUF file of a time when rules had no names; empty if none is known."""
    if family == "stablelm":  # the second one has another vocabulary, twice as large
        return "stablelm2" if len(tokens) > _LARGE else "olmo"
    by_token = (rule for token, rule in _BY_TOKEN.items() if token in tokens)
    return next(by_token, _BY_FAMILY.get(family, ""))


class _AddedToken(msgspec.Struct, frozen=True, gc=False):
    id: int
    content: str
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


def tokenizer_json(vocabulary: Vocabulary, source: str) -> bytes:
    """Write the vocabulary in the form that the tokenizers library reads.

    Raises ModelError for an unknown splitting rule.
    """
    rule = vocabulary.splitting
    if rule and rule not in SPLITTINGS:
        known = ", ".join(SPLITTINGS)
        message = (
            f"{source}: splitting rule {rule!r} is not supported ({known}); take the model's "
            "safetensors folder, which has the rule itself"
        )
        raise ModelError(message)
    parts = SPLITTINGS[rule] if rule else _pieces(vocabulary)
    model = {**parts["model"], "vocab": vocabulary.tokens, "merges": vocabulary.merges}
    plain = {"version": "1.0", "truncation": None, "padding": None, "post_processor": None}
    # There may be many, so they are not all described at the same time.
    content = BytesIO()
    content.write(b'{"added_tokens":[')
    separator = b""
    for token in _added_tokens(vocabulary):
        content.write(separator + msgspec.json.encode(token))
        separator = b","
    content.write(b"]," + msgspec.json.encode({**plain, **parts, "model": model})[1:])
    return content.getvalue()


def _added_tokens(vocabulary: Vocabulary) -> Iterator[_AddedToken]:
    for token, index in vocabulary.special.items():
        yield _AddedToken(index, token, rstrip=token in vocabulary.stripping)
    for token, index in (vocabulary.user_defined or {}).items():
        yield _AddedToken(index, token, special=False)


def _pieces(vocabulary: Vocabulary) -> Mapping[str, Any]:
    spaces = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    ahead = [{"type": "Prepend", "prepend": SPACE}] if vocabulary.adds_space else []
    back = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoders = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    unknown = {"unk_token": vocabulary.unknown, "fuse_unk": True, "byte_fallback": True}
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*ahead, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {**_BPE, **unknown},
    }
