"""A GGUF file as a checkpoint: dequantised weights, and its vocabulary as a tokenizer.json."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from itertools import islice
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, dequantize

from aobatch.errors import ModelError
from aobatch.models import InfillOrder, SpecialTokens
from aobatch.models.chat import format_of_template, texts_of_template
from aobatch.models.checks import shown
from aobatch.models.source.decoder import (
    GGUF,
    Naming,
    Shape,
    StoredRows,
    arranged_heads,
    check_presence,
    check_spec,
    decoder_shapes,
    gguf_biases,
    gguf_naming,
    load_rows,
    memory_budget,
    stored_rows,
    with_wide_heads,
)
from aobatch.models.source.experts import ExpertPart
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf import (
    Q1_0,
    Q2_0,
    BlockType,
    GgufFile,
    StoredArray,
    StoredTensor,
    check_parts,
    open_bytes,
)
from aobatch.models.source.gguf_families import GgufFamily, find_gguf, spec_from_gguf
from aobatch.models.source.infill import find_layout
from aobatch.models.source.rope import CONTEXTS, with_divisors
from aobatch.models.source.tokenizer_json import DOCUMENT_SEPARATOR, is_end
from aobatch.models.source.vocabulary import (
    MAX_PIECE,
    Vocabulary,
    merges_by_score,
    tokenizer_json,
    unnamed_splitting,
)
from aobatch.models.spec import EXPERT_PARTS, Checkpoint, DecoderSpec, Weight
from aobatch.models.tokenizer import byte_level_alphabet

_CHUNK = 2**22
_HEAD = "output.weight"
_FREQUENCIES, _SHORT, _LONG = (
    f"rope_{name}.weight" for name in ("freqs", "factors_short", "factors_long")
)
_LEAST_DIVISOR = 1e-3
_PICTURES = ("v.", "mm.")
"""How names of weights begin that read pictures, which some files have beside a decoder."""

_SCALE = "scale"
_SCALES = (".scale", ".input_scale")
"""How names end beside weights of NVFP4: their factor, and their input's, which is not needed."""

# What the family's part of the metadata says that follows from the rest, or shapes training alone.
_INERT = (
    *("vocab_size", "tensor_data_layout", "rope.scaling.finetuned"),
    *("rope.scaling.original_context_length", "image_token_index", "spatial_merge_size"),
    "max_position_embeddings",
)


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file, or all parts of one; weights are dequantised when they are asked for.

    Nothing is taken on trust: raises ModelError if the file is not GGUF or contradicts itself, or
    if it asks for anything that is not supported.
    """
    file = check_parts(path)
    name = file.fields.text("general.architecture")
    check_purpose(file.fields, name)
    known = find_gguf(name, str(path))
    check_presence(GGUF.of("embedding"), file.tensors, file.fields)
    file = _completed(file, known, name)
    spec, naming, places = _decoder(file, known, name)
    shapes, stored = decoder_shapes(spec), file.tensors
    vocabulary = read_vocabulary(file.fields, spec.vocab_size)

    def tensor_rows(name: str, start: int, stop: int) -> Weight:
        weight = load_weight(file.tensors[name], start, stop)
        scale = file.tensors.get(f"{name.removesuffix('weight')}{_SCALE}")
        return weight if scale is None else weight * load_weight(scale)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        if found := naming.expert_part(name):
            (layer, part), shape = found, shapes[name]
            each = range(shape[0])[start:stop]
            return np.stack([part.load(layer, shape, stored, tensor_rows, x) for x in each])
        weight = load_rows(places[name], tensor_rows, start, stop)
        return arranged_heads(weight, name, spec, pairs_neighbours=known.pairs_neighbours)

    return Checkpoint(
        **asdict(special_tokens(file.fields, vocabulary)),
        spec=spec,
        load=load,
        tokenizer_json=tokenizer_json(vocabulary, str(path)),
        licence=file.fields.text("general.license", "unknown"),
        source=path.name,
        files=file.paths,
    )


_PURPOSES = {
    "adapter": "a LoRA adapter, which is no model by itself; merge it into its base by "
    "`aobatch models import BASE NAME --lora PATH`",
    "mmproj": "the part of a model that reads pictures or sound; take the file that has its text",
    "imatrix": "statistics for quantisation; take the model's own file",
}
_EMBEDS = "a model that embeds texts and completes none; take one that generates text"
_ENCODERS = ("bert", "t5encoder", "gemma-embedding")


def check_purpose(fields: Fields, architecture: str) -> None:
    """Raise ModelError, saying what it is, for a file that holds anything but a decoder."""
    kind = fields.text("general.type", "model")
    kind = "mmproj" if architecture == "clip" else kind
    if kind in _PURPOSES:
        fields.refuse(f"it is {_PURPOSES[kind]}")
    if architecture.endswith(_ENCODERS) or fields.get(f"{architecture}.pooling_type"):
        fields.refuse(f"it is {_EMBEDS}")


def _completed(file: GgufFile, known: GgufFamily, name: str) -> GgufFile:
    """Add what a converter left out, and leave out what is not of a decoder."""
    fields, rows = file.fields, file.tensors[GGUF.of("embedding")].shape[0]
    defaults = {f"{name}.{k}": v for k, v in known.defaults(fields.behind(f"{name}.")).items()}
    defaults["tokenizer.ggml.add_space_prefix"] = known.adds_space
    values = {key: value for key, value in defaults.items() if key not in fields}
    tensors = {k: v for k, v in file.tensors.items() if not k.startswith(_PICTURES)}
    if len(tensors) < len(file.tensors):  # tokens for pictures have no embeddings of their own
        for key in ("tokens", "token_type", "scores"):
            array = fields.get(f"tokenizer.ggml.{key}")
            if isinstance(array, StoredArray):
                values[f"tokenizer.ggml.{key}"] = replace(array, count=min(rows, array.count))
    return replace(file, fields=fields.replaced(values), tensors=tensors)


def _decoder(
    file: GgufFile, known: GgufFamily, name: str
) -> tuple[DecoderSpec, Naming, dict[str, StoredRows]]:
    """Read the decoder, and where its weights are."""
    fields, at = file.fields, file.fields.behind(f"{name}.")
    shapes = {tensor.name: tensor.shape for tensor in file.tensors.values()}
    scales = [x for x in shapes if shapes[x] == (1,) and x.endswith(_SCALES)]
    shapes = {key: shape for key, shape in shapes.items() if key not in scales}
    # A vocabulary may be padded beyond the tokens that have names.
    spec = spec_from_gguf(known, at, shapes[GGUF.of("embedding")][0])
    at.require("attention.causal", value=True)
    ignored = {f"{name}.{key}" for key in _INERT}
    ignored |= {key for key in fields if key.startswith((f"{name}.vision.", f"{name}.mm."))}
    fields.check_all_read(f"{name}.", ignored)
    naming = _naming(known, spec, shapes)
    spec = replace(spec, is_tied=_HEAD not in shapes, biases=gguf_biases(shapes, naming))
    check_spec(spec, fields, memory_budget(file.size))
    widths = [layer.rope.width for layer in spec.attentions if layer.rope.width != 0]
    width = next(iter(widths), None) or spec.head_dim
    divisors = {key: (width // 2,) for key in (_FREQUENCIES, _SHORT, _LONG) if key in shapes}
    places = stored_rows(spec, naming, fields, shapes, divisors)
    return with_wide_heads(_with_divisors(file, spec, at)), naming, places


def _naming(known: GgufFamily, spec: DecoderSpec, shapes: Mapping[str, Shape]) -> Naming:
    """Say how weights are named, and which are stored as one."""
    fused: dict[str, tuple[str, ...]] = {}
    if "blk.0.attn_qkv.weight" in shapes:
        fused["attn_qkv"] = ("q", "k", "v")
    if spec.experts is None:
        if spec.is_gated and "blk.0.ffn_gate.weight" not in shapes:
            fused["ffn_up"] = ("gate", "up")
        return gguf_naming(known.stems, fused)
    if "blk.0.ffn_gate.0.weight" in shapes:  # as files had it before April 2024
        apart = {part: ExpertPart(f"ffn_{part}.{{}}.weight") for part in EXPERT_PARTS}
        return replace(gguf_naming(known.stems, fused), experts=apart)
    together = {part: f"ffn_{part}_exps" for part in EXPERT_PARTS}
    return gguf_naming({**known.stems, **together}, fused)


def _with_divisors(file: GgufFile, spec: DecoderSpec, at: Fields) -> DecoderSpec:
    """Divide rotary frequencies by what the file has for them.

    Those of longrope are for contexts up to the original one.
    """
    name = next((key for key in (_FREQUENCIES, _SHORT) if key in file.tensors), None)
    if name is None:
        return spec
    divisors = load_weight(file.tensors[name])
    if not (divisors >= _LEAST_DIVISOR).all():
        file.fields.refuse(f"{name!r} holds numbers below {_LEAST_DIVISOR}")
    layers = tuple(replace(x, rope=with_divisors(x.rope, divisors)) for x in spec.attentions)
    if name == _SHORT:
        original = at.integer("rope.scaling.original_context_length", *CONTEXTS)
        spec = replace(spec, context_length=min(spec.context_length, original))
    return replace(spec, attentions=layers)


def load_weight(tensor: StoredTensor, start: int = 0, stop: int | None = None) -> Weight:
    """Dequantise rows start to stop, some at a time so that only the result is large.

    Of several matrices as one they are those of the first dimension. Raises ModelError for a type
    that cannot be read, or for a number that is not finite.
    """
    *outer, columns = tensor.shape
    row_bytes, asked = tensor.num_bytes // prod(outer), range(tensor.shape[0])[start:stop]
    height = prod(outer[1:])
    # A vector is one row, of whose numbers some are asked for.
    rows = range(asked.start * height, asked.stop * height) if outer else range(1)
    step = max(1, _CHUNK // columns)
    weight = np.empty((len(rows), columns), np.float32)
    with open_bytes(tensor.path, tensor.position + rows.start * row_bytes) as reader:
        for first in range(0, len(rows), step):
            part = weight[first : first + step]
            data = np.frombuffer(reader.take(len(part) * row_bytes, "a tensor"), np.uint8)
            try:
                # Scales may be anything; what comes of them is checked.
                with np.errstate(all="ignore"):
                    part[:] = _dequantised(data.reshape(len(part), row_bytes), tensor.kind)
            except (NotImplementedError, ValueError) as error:
                kind = tensor.kind.name
                message = f"{tensor.path}: weight {tensor.name!r} has type {kind}, not supported"
                raise ModelError(message) from error
            if not np.isfinite(part).all():
                message = f"{tensor.path}: weight {tensor.name!r} holds numbers that are not finite"
                raise ModelError(message)
    return weight.reshape(-1, *tensor.shape[1:]) if outer else weight[0, start:stop]


def _dequantised(rows: np.ndarray, kind: BlockType) -> Weight:
    """Compute the numbers of whole rows of blocks, [rows, bytes]; the library does all but two."""
    if kind.number not in (Q1_0, Q2_0):
        return np.asarray(dequantize(rows, GGMLQuantizationType(kind.number)))
    # Behind a float16, 1 or 2 bits a number, the lowest first, that stand for -1, 1 or -1, 0, 1, 2.
    bits = 1 if kind.number == Q1_0 else 2
    blocks = rows.reshape(-1, kind.num_bytes)
    scales = blocks[:, :2].copy().view("<f2").astype(np.float32)
    codes = blocks[:, 2:, None] >> np.arange(0, 8, bits, dtype=np.uint8) & (2**bits - 1)
    levels = codes.reshape(len(blocks), kind.size).astype(np.float32)
    levels = 2 * levels - 1 if bits == 1 else levels - 1
    return np.asarray(levels * scales).reshape(len(rows), -1)


_BYTE_LEVEL, _PIECES = "gpt2", "llama"
_UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 2, 3, 4, 6
_LAST_KIND = 6
_MAX_SPECIAL = 65_536
_ENDS, _ALL_ENDS = ("eot", "eom"), "tokenizer.ggml.eos_token_ids"
_OLDER_ROLES = {"fim_pre": "prefix", "fim_suf": "suffix", "fim_mid": "middle"}
"""What older files call the roles of infill tokens."""

Merges = list[tuple[str, str]]


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
    return Vocabulary(tokens, special, _merges(fields, tokens), _splitting(fields, tokens))


_RULE = "tokenizer.ggml.pre"


def _splitting(fields: Fields, tokens: Mapping[str, int]) -> str:
    rule = fields.text(_RULE, "default")
    if rule == "default":  # what converters write who know none
        rule = unnamed_splitting(fields.text("general.architecture"), tokens)
    if not rule:
        fields.refuse(
            f"{_RULE!r} is missing, which says how texts are split; get it converted anew"
        )
    return rule


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
        stripping=_stripping(fields, tokens, kinds),
        user_defined=_of_kind(tokens, kinds, _USER_DEFINED),
        unknown=next(iter(_of_kind(tokens, kinds, _UNKNOWN)), None),
        adds_space=fields.flag("tokenizer.ggml.add_space_prefix", default=True),
    )


def _stripping(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> frozenset[str]:
    """List the tokens that swallow spaces behind them, which these files do not say of phi3."""
    if fields.text("general.architecture") != "phi3":
        return frozenset()
    return frozenset(_of_kind(tokens, kinds, _CONTROL)) - {"<s>", "<|endoftext|>"}


def _merges_by_score(fields: Fields, tokens: Mapping[str, int], kinds: bytes) -> Merges:
    scores = _as_many(fields, "scores", len(tokens), fields.numbers("tokenizer.ggml.scores"))
    makes = [kind not in (_CONTROL, _UNKNOWN, _BYTE) for kind in kinds]
    for token, index in tokens.items():
        if makes[index] and len(token) > MAX_PIECE:
            fields.refuse(f"token {shown(token)} is longer than {MAX_PIECE} characters")
    return merges_by_score(tokens, scores, makes)


def special_tokens(fields: Fields, vocabulary: Vocabulary) -> SpecialTokens:
    """Find the end and start tokens in the metadata and among the tokens that are added.

    Raises ModelError if the metadata names none that ends a text, or an id that does not exist.
    """

    def token_id(role: str, default: int | None = None) -> int:
        return _token_id(fields, role, vocabulary.tokens, default)

    others = vocabulary.user_defined or {}
    end = {i for token, i in vocabulary.special.items() if is_end(token, is_special=True)}
    end |= {i for token, i in others.items() if is_end(token, is_special=False)}
    end.add(token_id("eos"))
    end |= {token_id(role) for role in _ENDS if _id_key(role) in fields}
    if _ALL_ENDS in fields:
        last = len(vocabulary.tokens) - 1
        end |= {*islice(fields.integers(_ALL_ENDS, 0, last), _MAX_SPECIAL)}
    start = token_id("bos", min(end))
    # Vocabularies of pieces begin a text with a token of its own unless they say otherwise.
    is_pieces = vocabulary.user_defined is not None
    adds_start = fields.flag("tokenizer.ggml.add_bos_token", default=is_pieces)
    if not adds_start:
        start = vocabulary.tokens.get(DOCUMENT_SEPARATOR, start)
    infill, order = _infill(fields, vocabulary.tokens)
    templates = texts_of_template(fields.get("tokenizer.chat_template"))
    chat_format = format_of_template(next(templates, ""), vocabulary.tokens)
    return SpecialTokens(tuple(sorted(end)), start, adds_start, infill, chat_format, order)


def _infill(fields: Fields, tokens: Mapping[str, int]) -> tuple[tuple[int, ...], InfillOrder]:
    """Find the infill tokens, by what the file states or else by their names, and their order."""
    layout = find_layout(tokens)
    names = layout.names if layout else dict.fromkeys(_OLDER_ROLES, "")
    found = []
    for role, name in names.items():
        stated = role if _id_key(role) in fields else _OLDER_ROLES[role]
        if name or _id_key(stated) in fields:
            found.append(_token_id(fields, stated, tokens, tokens.get(name)))
    return (tuple(found) if len(found) == len(names) else ()), layout.order if layout else "PSM"


def _token_id(
    fields: Fields, role: str, tokens: Mapping[str, int], default: int | None = None
) -> int:
    return fields.integer(_id_key(role), 0, len(tokens) - 1, default)


def _id_key(role: str) -> str:
    return f"tokenizer.ggml.{role}_token_id"
