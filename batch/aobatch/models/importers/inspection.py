"""Facts of a file or folder that was not converted: what its headers say, and whether it can be."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.checks import printable
from aobatch.models.checks.tokenizer_parts import TokenizerFile
from aobatch.models.estimates import converted_bytes
from aobatch.models.facts import ModelFacts, cache_facts, token_texts
from aobatch.models.fields import Fields
from aobatch.models.importers.checkpoint import read_checkpoint
from aobatch.models.importers.gguf_check import check_gguf
from aobatch.models.importers.gguf_tensors import KINDS
from aobatch.models.importers.json_files import read_fields
from aobatch.models.importers.safetensors_weights import find_weights
from aobatch.models.importers.sources import CONFIG
from aobatch.models.sizes import GGUF_KEYS
from aobatch.models.spec import Checkpoint

_SIZES = {
    "hidden_size": "hidden_size",
    "num_layers": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "num_kv_heads": "num_key_value_heads",
    "head_dim": "head_dim",
    "context_length": "max_position_embeddings",
}
"""What a config.json calls the sizes of a decoder."""

_SAMPLED = ("embedding", "head", *(f"layers.0.{name}" for name in ("v", "o", "gate", "up", "down")))
"""Weights that are stored in all the ways that a file has."""


def inspect_source(path: Path) -> ModelFacts:
    """Give the facts of a GGUF file or a folder; ModelError if it has no readable header."""
    facts = _stated_facts(path)
    try:
        checkpoint = read_checkpoint(path)
        for name in _SAMPLED:
            checkpoint.load(name, 0, 1)  # a type that cannot be read shows only here
    except ModelError as error:
        return msgspec.structs.replace(facts, is_usable=False, reason=str(error))
    return msgspec.structs.replace(facts, **_known_facts(checkpoint))


def _stated_facts(path: Path) -> ModelFacts:
    if path.is_dir() and (path / CONFIG).is_file():
        return _folder_facts(path)
    return _gguf_facts(next(path.glob("*.gguf")) if path.is_dir() else path)


def _gguf_facts(path: Path) -> ModelFacts:
    file = check_gguf(path)
    fields = file.fields
    family = _text(fields, "general.architecture")
    sizes = {name: f"{family}.{GGUF_KEYS[key]}" for name, key in _SIZES.items()}
    vocabulary = fields.get("tokenizer.ggml.tokens")
    dtypes = ((KINDS[tensor.kind].name, tensor.num_bytes) for tensor in file.tensors.values())
    facts = ModelFacts(
        name=_text(fields, "general.name") or path.stem,
        path=str(path.resolve()),
        layout="GGUF file",
        is_usable=True,
        reason="",
        family=family,
        size_bytes=file.size,
        dtypes=_added(dtypes),
        licence=_text(fields, "general.license") or "unknown",
        source=path.name,
        vocab_size=len(vocabulary) if hasattr(vocabulary, "__len__") else None,
    )
    return _with_sizes(facts, fields, sizes)


def _folder_facts(path: Path) -> ModelFacts:
    fields = read_fields(path / CONFIG)
    tensors = find_weights(path).values()
    dtypes = ((tensor.stored.dtype, tensor.stored.end - tensor.stored.begin) for tensor in tensors)
    files = {tensor.path for tensor in tensors}
    facts = ModelFacts(
        name=path.resolve().name,
        path=str(path.resolve()),
        layout="safetensors folder",
        is_usable=True,
        reason="",
        family=_text(fields, "model_type"),
        size_bytes=sum(file.stat().st_size for file in files),
        dtypes=_added(dtypes),
        source=path.resolve().name,
        vocab_size=_size(fields, "vocab_size"),
    )
    return _with_sizes(facts, fields, _SIZES)


def _with_sizes(facts: ModelFacts, fields: Fields, names: dict[str, str]) -> ModelFacts:
    sizes = {name: _size(fields, key) for name, key in names.items()}
    return msgspec.structs.replace(facts, **sizes)


def _known_facts(checkpoint: Checkpoint) -> dict[str, object]:
    """Give what is certain of a model that can be converted."""
    spec = checkpoint.spec
    file = msgspec.json.decode(checkpoint.tokenizer_json, type=TokenizerFile)
    named = {
        *checkpoint.eos_token_ids,
        *checkpoint.infill_token_ids,
        checkpoint.document_start_token_id,
    }
    return {
        "family": spec.family,
        "licence": checkpoint.licence,
        "vocab_size": spec.vocab_size,
        "hidden_size": spec.hidden_size,
        "num_layers": spec.num_layers,
        "num_heads": spec.num_heads,
        "num_kv_heads": spec.num_kv_heads,
        "head_dim": spec.head_dim,
        "context_length": spec.context_length,
        "eos_token_ids": checkpoint.eos_token_ids,
        "document_start_token_id": checkpoint.document_start_token_id,
        "adds_document_start": checkpoint.adds_document_start,
        "infill_token_ids": checkpoint.infill_token_ids,
        "token_texts": token_texts(file, named),
        "kv_cache": cache_facts(
            spec.num_layers, spec.num_kv_heads, spec.head_dim, spec.context_length
        ),
        "converted_bytes": converted_bytes(spec),
    }


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    return printable(value) if isinstance(value, str) else ""


def _size(fields: Fields, key: str) -> int | None:
    value = fields.get(key)
    return value if type(value) is int else None


def _added(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, size in sizes:
        total[name] += size
    return dict(total.most_common())
