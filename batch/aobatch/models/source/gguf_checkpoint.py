"""A GGUF file as a checkpoint: dequantised weights, and its vocabulary as a tokenizer.json."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from gguf import dequantize

from aobatch.errors import ModelError
from aobatch.models import SpecialTokens
from aobatch.models.chat import format_of_template, texts_of_template
from aobatch.models.checks import shown
from aobatch.models.source.decoder import (
    GGUF,
    check_presence,
    check_spec,
    gguf_biases,
    half_split,
    load_rows,
    memory_budget,
    stored_rows,
)
from aobatch.models.source.families import find, spec_from_gguf
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf import GgufFile, StoredTensor, check_gguf, open_bytes
from aobatch.models.source.rope import with_divisors
from aobatch.models.source.tokenizer_json import (
    DOCUMENT_SEPARATOR,
    INFILL_KEYS,
    INFILL_NAMES,
    is_end,
)
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight
from aobatch.models.tokenizer import SPACE, byte_level_alphabet

_CHUNK = 2**22
_HEAD, _DIVISORS = "output.weight", "rope_freqs.weight"
_LEAST_DIVISOR = 1e-3

# What the family's part of the metadata says that follows from the rest, or shapes training alone.
_INERT = (
    *("vocab_size", "tensor_data_layout", "rope.scaling.finetuned"),
    "rope.scaling.original_context_length",
)


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; weights are dequantised one at a time when they are asked for.

    Nothing is taken on trust: raises ModelError if the file is not GGUF or contradicts itself, or
    if it asks for anything that is not supported.
    """
    file = check_gguf(path)
    fields = file.fields
    name = fields.text("general.architecture")
    family = find(name, str(path))
    embedding = GGUF.of("embedding")
    check_presence(embedding, file.tensors, fields)
    # A vocabulary may be padded beyond the tokens that have names.
    spec = spec_from_gguf(family, name, fields, file.tensors[embedding].shape[0])
    spec = replace(spec, is_tied=_HEAD not in file.tensors, biases=gguf_biases(file.tensors))
    fields.require(f"{name}.attention.causal", value=True)
    fields.check_all_read(f"{name}.", {f"{name}.{key}" for key in _INERT})
    check_spec(spec, fields, memory_budget(file.size))
    shapes = {tensor.name: tensor.shape for tensor in file.tensors.values()}
    divisors = {_DIVISORS: (spec.head_dim // 2,)} if _DIVISORS in shapes else {}
    places = stored_rows(spec, GGUF, fields, shapes, divisors)
    spec = _with_divisors(file, spec)
    vocabulary = read_vocabulary(fields, spec.vocab_size)

    def tensor_rows(name: str, start: int, stop: int) -> Weight:
        return load_weight(path, file.tensors[name], start, stop)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = load_rows(places[name], tensor_rows, start, stop)
        return half_split(weight, name, spec, pairs_neighbours=family.gguf_pairs_neighbours)

    return Checkpoint(
        **asdict(special_tokens(fields, vocabulary)),
        spec=spec,
        load=load,
        tokenizer_json=tokenizer_json(vocabulary, str(path)),
        licence=fields.text("general.license", "unknown"),
        source=path.name,
        files=(path,),
    )


def _with_divisors(file: GgufFile, spec: DecoderSpec) -> DecoderSpec:
    """Divide rotary frequencies by what the file has for them."""
    if _DIVISORS not in file.tensors:
        return spec
    divisors = load_weight(file.path, file.tensors[_DIVISORS])
    if not (divisors >= _LEAST_DIVISOR).all():
        file.fields.refuse(f"{_DIVISORS!r} holds numbers below {_LEAST_DIVISOR}")
    layers = tuple(replace(x, rope=with_divisors(x.rope, divisors)) for x in spec.attentions)
    return replace(spec, attentions=layers)


def load_weight(
    path: Path, tensor: StoredTensor, start: int = 0, stop: int | None = None
) -> Weight:
    """Dequantise rows start to stop, some at a time so that only the result is large.

    Raises ModelError for a type that cannot be read, or for a number that is not finite.
    """
    num_rows, columns = prod(tensor.shape[:-1]), tensor.shape[-1]
    row_bytes = tensor.num_bytes // num_rows
    rows = range(num_rows)[start:stop]
    step = max(1, _CHUNK // columns)
    weight = np.empty((len(rows), columns), np.float32)
    with open_bytes(path, tensor.position + start * row_bytes) as reader:
        for first in range(0, len(rows), step):
            part = weight[first : first + step]
            data = np.frombuffer(reader.take(len(part) * row_bytes, "a tensor"), np.uint8)
            try:
                # Scales may be anything; what comes of them is checked.
                with np.errstate(all="ignore"):
                    part[:] = dequantize(data.reshape(len(part), row_bytes), tensor.kind)
            except (NotImplementedError, ValueError) as error:
                kind = tensor.kind.name
                message = f"{path}: weight {tensor.name!r} has type {kind}, not supported"
                raise ModelError(message) from error
            if not np.isfinite(part).all():
                message = f"{path}: weight {tensor.name!r} holds numbers that are not finite"
                raise ModelError(message)
    return weight.reshape(-1, *tensor.shape[1:])


_BYTE_LEVEL, _PIECES = "gpt2", "llama"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_LAST_KIND = 6
_MAX_SPECIAL = 65_536
_MAX_PIECE = 256
_ENDS = ("eot", "eom")

Merges = list[tuple[str, str]]


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
    kinds = bytes(_as_many(fields, "types of tokens", len(tokens), _kinds(fields)))
    if (count := kinds.count(_CONTROL) + kinds.count(_USER_DEFINED)) > _MAX_SPECIAL:
        fields.refuse(f"{count} tokens are special, at most {_MAX_SPECIAL} may be")
    if model == _PIECES:
        return _piece_vocabulary(fields, tokens, kinds)
    special = _of_kind(tokens, kinds, _CONTROL, _USER_DEFINED)
    alphabet = set(byte_level_alphabet())
    for token in tokens:
        if token not in special and not alphabet.issuperset(token):
            fields.refuse(f"token {shown(token)} does not stand for bytes")
    merges = _merges(fields, tokens)
    return Vocabulary(tokens, special, merges, splitting=fields.text("tokenizer.ggml.pre"))


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


def _kinds(fields: Fields) -> Iterator[int]:
    return fields.integers("tokenizer.ggml.token_type", 0, _LAST_KIND)


def _as_many(fields: Fields, what: str, count: int, listed: Iterable[Any]) -> list[Any]:
    """Read a list of as many items as there are tokens."""
    items = list(islice(listed, count + 1))
    if len(items) != count:
        fields.refuse(f"there are not as many {what} as tokens, {count}")
    return items


def _of_kind(tokens: Mapping[str, int], kinds: bytes, *wanted: int) -> dict[str, int]:
    return {token: index for token, index in tokens.items() if kinds[index] in wanted}


def _merges(fields: Fields, tokens: Mapping[str, int]) -> Merges:
    names = {token: token for token in tokens}  # so that a merge takes two references
    merges = []
    for merge in fields.texts("tokenizer.ggml.merges"):
        left, _, right = merge.partition(" ")
        if not left or not right or not {left, right, left + right} <= names.keys():
            fields.refuse(f"merge {shown(merge)} is not of two tokens that make a third")
        merges.append((names[left], names[right]))
    return merges


def _piece_vocabulary(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> Vocabulary:
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


def _merges_by_score(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> Merges:
    """Find every two tokens that make a third, in the order of what they make."""
    scores = _as_many(fields, "scores", len(tokens), fields.numbers("tokenizer.ggml.scores"))
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


def special_tokens(fields: Fields, vocabulary: Vocabulary) -> SpecialTokens:
    """Find the end and start tokens in the metadata and among the tokens that are added.

    Raises ModelError if the metadata names none that ends a text, or an id that does not exist.
    """

    def token_id(role: str, default: int | None = None) -> int:
        return fields.integer(_id_key(role), 0, len(vocabulary.tokens) - 1, default)

    others = vocabulary.user_defined or {}
    end = {i for token, i in vocabulary.special.items() if is_end(token, is_special=True)}
    end |= {i for token, i in others.items() if is_end(token, is_special=False)}
    end.add(token_id("eos"))
    end |= {token_id(role) for role in _ENDS if _id_key(role) in fields}
    start = token_id("bos", min(end))
    # Vocabularies of pieces begin a text with a token of its own unless they say otherwise.
    is_pieces = vocabulary.user_defined is not None
    adds_start = fields.flag("tokenizer.ggml.add_bos_token", default=is_pieces)
    if not adds_start:
        start = vocabulary.tokens.get(DOCUMENT_SEPARATOR, start)
    infill = []
    for role, names in INFILL_NAMES.items():
        named = [vocabulary.tokens[name] for name in names if name in vocabulary.tokens]
        stated = role if _id_key(role) in fields else INFILL_KEYS[role]
        if named or _id_key(stated) in fields:
            infill.append(token_id(stated, *named[:1]))
    if len(infill) != len(INFILL_NAMES):
        infill = []
    templates = texts_of_template(fields.get("tokenizer.chat_template"))
    chat_format = format_of_template(next(templates, ""), vocabulary.tokens)
    return SpecialTokens(tuple(sorted(end)), start, adds_start, tuple(infill), chat_format)


def _id_key(role: str) -> str:
    return f"tokenizer.ggml.{role}_token_id"


_BYTES: Mapping[str, Any] = {
    "type": "ByteLevel",
    "add_prefix_space": False,
    "trim_offsets": True,
    "use_regex": True,
}

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
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


def _by_regex(pattern: str) -> tuple[Mapping[str, Any], ...]:
    rule = {"Regex": pattern}
    split = {"type": "Split", "pattern": rule, "behavior": "Isolated", "invert": False}
    return split, {**_BYTES, "use_regex": False}


_RULES = {
    "gpt-2 gpt2 phi-2": _rule(_BYTES),
    "smollm starcoder refact": _rule({"type": "Digits", "individual_digits": True}, _BYTES),
    "llama-bpe llama3 llama-v3 dbrx smaug-bpe": _rule(*_by_regex(_LLAMA3), ignores_merges=True),
    "qwen2 deepseek-r1-qwen": _rule(*_by_regex(_QWEN2), normalizer={"type": "NFC"}),
    "tekken": _rule(*_by_regex(_TEKKEN), ignores_merges=True),
}
SPLITTINGS: Mapping[str, Mapping[str, Any]] = {
    name: rule for names, rule in _RULES.items() for name in names.split()
}
"""How texts are split, by the name that GGUF files have for it."""


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
        message = f"{source}: splitting rule {rule!r} is not supported ({known})"
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
        yield _AddedToken(index, token)
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
