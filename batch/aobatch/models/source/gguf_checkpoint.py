"""GGUF files as checkpoints: metadata, dequantised weights, vocabulary."""

from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
from gguf import dequantize

from aobatch.errors import ModelError
from aobatch.models.source.decoder import (
    check_presence,
    check_shapes,
    check_spec,
    decoder_shapes,
    gguf_biases,
    gguf_name,
    memory_budget,
)
from aobatch.models.source.families import find, spec_from_gguf
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf import GgufFile, StoredTensor, check_gguf, open_bytes
from aobatch.models.source.gguf_vocabulary import read_vocabulary, special_tokens, tokenizer_json
from aobatch.models.source.rope import with_divisors
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight

_CHUNK = 2**22


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
            part[:] = _dequantise(path, tensor, data.reshape(len(part), row_bytes))
            if not np.isfinite(part).all():
                message = f"{path}: weight {tensor.name!r} holds numbers that are not finite"
                raise ModelError(message)
    return weight.reshape(-1, *tensor.shape[1:])


def _dequantise(path: Path, tensor: StoredTensor, data: np.ndarray) -> np.ndarray:
    try:
        # Scales may be anything; what comes of them is checked.
        with np.errstate(all="ignore"):
            return np.asarray(dequantize(data, tensor.kind))
    except (NotImplementedError, ValueError) as error:
        message = f"{path}: weight {tensor.name!r} has type {tensor.kind.name}, not supported"
        raise ModelError(message) from error


_HEAD, _DIVISORS = "output.weight", "rope_freqs.weight"
_LEAST_DIVISOR = 1e-3

# What the family's part of the metadata says that follows from the rest, or shapes training alone.
_INERT = frozenset(
    (
        *("vocab_size", "tensor_data_layout", "rope.scaling.finetuned"),
        "rope.scaling.original_context_length",
    )
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
    spec = spec_from_gguf(family, name, fields, _num_rows(file))
    spec = replace(spec, is_tied=_HEAD not in file.tensors, biases=gguf_biases(file.tensors))
    _check_family_fields(fields, name)
    check_spec(spec, fields, memory_budget(file.size))
    stored = _stored_names(file, spec)
    spec = _with_divisors(file, spec)
    vocabulary = read_vocabulary(fields, spec.vocab_size)
    tokens = special_tokens(fields, vocabulary)

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = load_weight(path, file.tensors[stored[name]], start, stop)
        heads = _heads(name, spec) if family.gguf_pairs_neighbours else None
        return weight if heads is None else _half_split(weight, heads)

    return Checkpoint(
        spec=spec,
        load=load,
        tokenizer_json=tokenizer_json(vocabulary, str(path)),
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        adds_document_start=tokens.adds_document_start,
        infill_token_ids=tokens.infill,
        name=fields.text("general.name", path.stem),
        licence=fields.text("general.license", "unknown"),
        source=path.name,
        files=(path,),
    )


def _check_family_fields(fields: Fields, family: str) -> None:
    """Raise ModelError if the family's part of the metadata says anything that is not known."""
    fields.require(f"{family}.attention.causal", value=True)
    fields.check_all_read(f"{family}.", {f"{family}.{key}" for key in _INERT})


def _num_rows(file: GgufFile) -> int:
    """Count the embedding's rows: a vocabulary may be padded beyond the tokens that have names."""
    name = gguf_name("embedding")
    check_presence(name, file.tensors, file.fields)
    return file.tensors[name].shape[0]


def _stored_names(file: GgufFile, spec: DecoderSpec) -> dict[str, str]:
    """Say where each canonical weight is; ModelError if one is missing or has another shape."""
    shapes = decoder_shapes(spec)
    stored = {name: gguf_name(name) for name in shapes}
    if spec.is_tied:
        stored["head"] = stored["embedding"]
    expected = {stored[name]: shape for name, shape in shapes.items()}
    if _DIVISORS in file.tensors:
        expected[_DIVISORS] = (spec.head_dim // 2,)
    check_shapes(expected, {x.name: x.shape for x in file.tensors.values()}, file.fields)
    return stored


def _with_divisors(file: GgufFile, spec: DecoderSpec) -> DecoderSpec:
    """Divide rotary frequencies by what the file has for them."""
    if _DIVISORS not in file.tensors:
        return spec
    divisors = load_weight(file.path, file.tensors[_DIVISORS])
    if not (divisors >= _LEAST_DIVISOR).all():
        file.fields.refuse(f"{_DIVISORS!r} holds numbers below {_LEAST_DIVISOR}")
    layers = tuple(replace(x, rope=with_divisors(x.rope, divisors)) for x in spec.attentions)
    return replace(spec, attentions=layers)


def _heads(name: str, spec: DecoderSpec) -> int | None:
    """Say over how many heads the rows of a weight are turned; None if they are not."""
    counts = {"q": spec.num_heads, "k": spec.num_kv_heads}
    return counts.get(name.rpartition(".")[2].removesuffix("_bias"))


def _half_split(weight: Weight, heads: int) -> Weight:
    """Put interleaved rotation pairs back into two halves a head."""
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1)
    return rows.swapaxes(1, 2).reshape(weight.shape)
