"""GGUF files as checkpoints: metadata, dequantised weights, vocabulary."""

from pathlib import Path
from typing import Any

import numpy as np

from aobatch.errors import ModelError
from aobatch.models import families
from aobatch.models.digest import file_digest
from aobatch.models.importers.gguf_vocabulary import special_tokens, tokenizer_json
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; weights are dequantised one at a time when they are asked for.

    Raises ModelError if the file is not GGUF, its family is unknown or its vocabulary is not
    byte-level BPE.
    """
    reader = _open(path)
    metadata = {name: field.contents() for name, field in reader.fields.items()}
    family = families.find(str(metadata.get("general.architecture")))
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    spec = family.spec_from_gguf(metadata, _num_rows(tensors, family.gguf_name("embedding"), path))
    tokens = special_tokens(metadata)

    def load(name: str) -> Weight:
        stored = family.gguf_name(name)
        if name == "head" and stored not in tensors:
            stored = family.gguf_name("embedding")  # the head is tied to the embedding
        weight = _dequantise(tensors, stored, path)
        heads = family.gguf_heads(name, spec)
        return weight if heads is None else _half_split(weight, heads)

    _check_sizes(spec, load("final_norm"), path)
    return Checkpoint(
        spec=spec,
        load=load,
        tokenizer_json=tokenizer_json(metadata),
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        infill_token_ids=tokens.infill,
        adds_document_start=bool(metadata.get("tokenizer.ggml.add_bos_token", False)),
        name=str(metadata.get("general.name", path.stem)),
        licence=str(metadata.get("general.license", "unknown")),
        source=path.name,
        sha256=file_digest(path),
    )


def _open(path: Path) -> Any:  # noqa: ANN401 - untyped library
    from gguf import GGUFReader

    try:
        return GGUFReader(path)
    except (ValueError, IndexError, OSError) as error:
        message = f"{path} is not a readable GGUF file: {error}"
        raise ModelError(message) from error


def _dequantise(tensors: dict[str, Any], name: str, path: Path) -> Weight:
    from gguf import dequantize

    tensor = _find(tensors, name, path)
    try:
        values = dequantize(tensor.data, tensor.tensor_type)
    except NotImplementedError as error:
        message = f"{path}: weight {name!r} has type {tensor.tensor_type.name}, not supported"
        raise ModelError(message) from error
    weight: Weight = np.asarray(values, np.float32).reshape([int(x) for x in tensor.shape][::-1])
    return weight


def _num_rows(tensors: dict[str, Any], name: str, path: Path) -> int:
    """Count the embedding's rows: a vocabulary may be padded beyond the tokens that have names."""
    return int(_find(tensors, name, path).shape[-1])


def _find(tensors: dict[str, Any], name: str, path: Path) -> Any:  # noqa: ANN401 - untyped library
    if name not in tensors:
        message = f"{path} lacks the weight {name!r}; the file is incomplete or of another family"
        raise ModelError(message)
    return tensors[name]


def _half_split(weight: Weight, heads: int) -> Weight:
    """Put interleaved rotation pairs back into two halves a head."""
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1)
    return rows.swapaxes(1, 2).reshape(weight.shape)


def _check_sizes(spec: DecoderSpec, final_norm: Weight, path: Path) -> None:
    if final_norm.shape != (spec.hidden_size,):
        message = f"{path}: weights of width {final_norm.shape} do not fit {spec.hidden_size}"
        raise ModelError(message)
