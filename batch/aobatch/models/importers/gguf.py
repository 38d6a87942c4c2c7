"""GGUF files as checkpoints: metadata, dequantised weights, vocabulary."""

from pathlib import Path

from aobatch.models import families
from aobatch.models.digest import file_digest
from aobatch.models.importers.gguf_check import GgufFile, check_gguf
from aobatch.models.importers.gguf_tokens import read_vocabulary
from aobatch.models.importers.gguf_vocabulary import special_tokens, tokenizer_json
from aobatch.models.importers.gguf_weights import load_weight
from aobatch.models.shapes import check_presence, check_shapes
from aobatch.models.sizes import check_spec, memory_budget
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight


def read_gguf(path: Path) -> Checkpoint:
    """Open a GGUF file; weights are dequantised one at a time when they are asked for.

    Nothing is taken on trust: raises ModelError if the file is not GGUF or contradicts itself, its
    family is unknown or its vocabulary is not byte-level BPE.
    """
    file = check_gguf(path)
    fields = file.fields
    family = families.find(fields.text("general.architecture"), str(path))
    spec = family.spec_from_gguf(fields, _num_rows(file, family.gguf_name("embedding")))
    check_spec(spec, fields, memory_budget(file.size))
    stored = _stored_names(file, family, spec)
    vocabulary = read_vocabulary(fields, spec.vocab_size)
    tokens = special_tokens(fields, vocabulary)

    def load(name: str) -> Weight:
        weight = load_weight(path, file.tensors[stored[name]])
        heads = family.gguf_heads(name, spec)
        return weight if heads is None else _half_split(weight, heads)

    return Checkpoint(
        spec=spec,
        load=load,
        tokenizer_json=tokenizer_json(vocabulary, str(path)),
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        infill_token_ids=tokens.infill,
        adds_document_start=fields.flag("tokenizer.ggml.add_bos_token", default=False),
        name=fields.text("general.name", path.stem),
        licence=fields.text("general.license", "unknown"),
        source=path.name,
        sha256=file_digest(path),
    )


def _num_rows(file: GgufFile, name: str) -> int:
    """Count the embedding's rows: a vocabulary may be padded beyond the tokens that have names."""
    check_presence(name, file.tensors, file.fields)
    return file.tensors[name].shape[0]


def _stored_names(file: GgufFile, family: families.Family, spec: DecoderSpec) -> dict[str, str]:
    """Say where each canonical weight is; ModelError if one is missing or has another shape."""
    shapes = family.shapes(spec)
    stored = {name: family.gguf_name(name) for name in shapes}
    if stored["head"] not in file.tensors:
        stored["head"] = stored["embedding"]  # the head is tied to the embedding
    expected = {stored[name]: shape for name, shape in shapes.items()}
    check_shapes(expected, {x.name: x.shape for x in file.tensors.values()}, file.fields)
    return stored


def _half_split(weight: Weight, heads: int) -> Weight:
    """Put interleaved rotation pairs back into two halves a head."""
    rows = weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1)
    return rows.swapaxes(1, 2).reshape(weight.shape)
