"""Facts of a model: what its files say, and, if it is not converted, whether and how it can be."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any

import msgspec
import onnx_ir as ir

from aobatch.errors import ModelError
from aobatch.kernels import CacheDtype
from aobatch.models import InfillOrder, MergedAdapter
from aobatch.models.checks import printable, refusal, shown
from aobatch.models.checks.graph import EXPORTED, OURS, GraphRules, check_graph
from aobatch.models.checks.tokenizer import TokenizerFile, check_tokenizer
from aobatch.models.foreign import ExportedFolder
from aobatch.models.source.decoder import SIZES, decoder_shapes
from aobatch.models.source.fields import Fields
from aobatch.models.source.gguf import check_parts
from aobatch.models.source.safetensors import find_weights
from aobatch.models.source.tokenizer_json import read_fields
from aobatch.models.spec import DESCRIBED_SIZES, DESCRIBED_TOKENS, Checkpoint, DecoderSpec
from aobatch.models.store.folder import (
    Fused,
    GraphSizes,
    Manifest,
    ModelFolder,
    Quality,
)
from aobatch.models.store.locate import CONFIG, gguf_at, read_checkpoint
from aobatch.models.tokenizer import chat_format_of

_EMBEDDING = "embedding"
_CACHES: tuple[CacheDtype, ...] = ("int8", "bf16", "fp32")
_FLOATS = ("norm", "_bias", "router", "sinks")
"""How the names of weights end that stay float32."""


def converted_bytes(spec: DecoderSpec) -> dict[str, int]:
    """Give about how many bytes the graph's weights take, by precision."""
    shapes = decoder_shapes(spec)
    floats = [shape for name, shape in shapes.items() if name.endswith(_FLOATS)]
    num_embeddings = prod(shapes.pop(_EMBEDDING))
    matrices = [shape for name, shape in shapes.items() if not name.endswith(_FLOATS)]
    num_weights, num_rows = (sum(prod(s[:end]) for s in matrices) for end in (None, -1))
    others = 4 * sum(map(prod, floats))
    others += 4 * spec.context_length * spec.head_dim * len({x.rope for x in spec.attentions})
    return {
        "int8": num_weights + 4 * num_rows + 2 * num_embeddings + others,
        "nbits8": num_weights + num_weights // 8 + 2 * num_embeddings + others,
        "fp32": 4 * (num_weights + num_embeddings) + others,
    }


class CacheFacts(msgspec.Struct, frozen=True):
    """What keys and values of one type take."""

    bytes_per_token: int
    bytes_per_slot: int
    """For a sequence that fills the context."""


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One model; None where nothing says it."""

    name: str
    path: str
    layout: str
    """What kind of file or folder it is."""
    is_usable: bool = True
    """Whether jobs can run with it, or, if it is not converted, whether it can be."""
    reason: str = ""
    """Why it is not usable."""
    family: str
    size_bytes: int
    dtypes: dict[str, int]
    """Bytes of weights by how they are stored, the most first."""
    notes: tuple[str, ...] = ()
    """What is not known of it, or left out."""
    licence: str = "unknown"
    source: str = ""
    source_sha256: str = ""
    adapters: tuple[MergedAdapter, ...] = ()
    """What was merged into the weights before they were converted."""
    digest: str = ""
    precision: str = ""
    recipe: str = ""
    vocab_size: int | None = None
    hidden_size: int | None = None
    num_layers: int | None = None
    num_heads: int | None = None
    num_kv_heads: int | None = None
    head_dim: int | None = None
    context_length: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    document_start_token_id: int | None = None
    adds_document_start: bool = False
    infill_token_ids: tuple[int, ...] = ()
    infill_order: InfillOrder = "PSM"
    chat_format: str = ""
    """How chats are written for it; `none` if no format that is known here fits."""
    token_texts: dict[int, str] = {}
    """How the vocabulary writes the tokens above."""
    kv_cache: dict[str, CacheFacts] = {}
    """By the type of keys and values."""
    quality: Quality | None = None
    fused: Fused | None = None
    """The graph over fused operators."""
    converted_bytes: dict[str, int] = {}
    """What it will take about after conversion, by precision; nothing if it is converted."""


_SAMPLED = ("embedding", "head", *(f"layers.0.{name}" for name in ("o", "gate", "up", "down")))
"""Weights that are stored in all the ways that a file has, beside the values, which come whole."""


def inspect_source(path: Path) -> ModelFacts:
    """Give the facts of a GGUF file or a folder; ModelError if it has no readable header."""
    if path.is_dir() and (path / CONFIG).is_file():
        facts = _folder_facts(path)
    else:
        facts = _gguf_facts(gguf_at(path) or path)
    try:
        checkpoint = read_checkpoint(path)
        checkpoint.load("layers.0.v")
        for name in _SAMPLED:
            checkpoint.load(name, 0, 1)  # a type that cannot be read shows only here
    except ModelError as error:
        return msgspec.structs.replace(facts, is_usable=False, reason=str(error))
    spec = checkpoint.spec
    cache = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
    file = msgspec.json.decode(checkpoint.tokenizer_json, type=TokenizerFile)
    return msgspec.structs.replace(
        facts,
        **{name: getattr(spec, name) for name in ("family", *DESCRIBED_SIZES)},
        **{name: getattr(checkpoint, name) for name in ("licence", *DESCRIBED_TOKENS)},
        notes=tuple(filter(None, (*checkpoint.warnings, checkpoint.left_out))),
        token_texts=_token_texts(file, checkpoint),
        kv_cache=_cache_facts(cache.kv_bytes_per_token, spec.context_length, _CACHES),
        converted_bytes=converted_bytes(spec),
    )


def _gguf_facts(path: Path) -> ModelFacts:
    file = check_parts(path)
    fields = file.fields
    family = _text(fields, "general.architecture")
    vocabulary = fields.get("tokenizer.ggml.tokens")
    return ModelFacts(
        name=_text(fields, "general.name") or path.stem,
        path=str(path.resolve()),
        layout="GGUF file",
        family=family,
        size_bytes=file.size,
        dtypes=_added((tensor.kind.name, tensor.num_bytes) for tensor in file.tensors.values()),
        licence=_text(fields, "general.license") or "unknown",
        source=path.name,
        vocab_size=len(vocabulary) if hasattr(vocabulary, "__len__") else None,
        **_sizes(fields, {name: f"{family}.{gguf}" for name, (_, gguf, _, _) in SIZES.items()}),
    )


def _folder_facts(path: Path) -> ModelFacts:
    fields = read_fields(path / CONFIG)
    tensors = find_weights(path).values()
    return ModelFacts(
        name=path.resolve().name,
        path=str(path.resolve()),
        layout="safetensors folder",
        family=_text(fields, "model_type"),
        size_bytes=sum(file.stat().st_size for file in {tensor.path for tensor in tensors}),
        dtypes=_added((tensor.dtype, tensor.num_bytes) for tensor in tensors),
        source=path.resolve().name,
        vocab_size=_whole(fields, "vocab_size"),
        **_sizes(fields, {name: config for name, (config, _, _, _) in SIZES.items()}),
    )


def _text(fields: Fields, key: str) -> str:
    value = fields.get(key)
    return printable(value) if isinstance(value, str) else ""


def _whole(fields: Fields, key: str) -> int | None:
    value = fields.get(key)
    return value if type(value) is int else None


def _sizes(fields: Fields, keys: Mapping[str, str]) -> dict[str, Any]:
    return {name: _whole(fields, key) for name, key in keys.items() if name in DESCRIBED_SIZES}


def _added(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, size in sizes:
        total[name] += size
    return dict(total.most_common())


_DESCRIBED = [
    name
    for name in Manifest.__struct_fields__
    if name in ModelFacts.__struct_fields__ and name != "chat_format"
]
"""What a model.toml says in the same words."""


def inspect_folder(folder: ModelFolder) -> ModelFacts:
    """Give the facts of a model; ModelError if its graph or its tokenizer is not to be read."""
    manifest = folder.manifest
    is_ours = not isinstance(folder, ExportedFolder)
    caches: tuple[CacheDtype, ...] = ("fp32",) if manifest.fused.reason else _CACHES
    return ModelFacts(
        **{name: getattr(manifest, name) for name in _DESCRIBED},
        path=str(folder.path),
        layout=f"aobatch {manifest.format}" if is_ours else "exported ONNX graph",
        size_bytes=folder.size_bytes,
        dtypes=_added(_weights(folder.graph, OURS if is_ours else EXPORTED)),
        token_texts=_token_texts(check_tokenizer(folder.tokenizer), manifest),
        chat_format=chat_format_of(folder),
        kv_cache=_cache_facts(folder.kv_bytes_per_token, manifest.context_length, caches),
    )


def _token_texts(file: TokenizerFile, owner: Checkpoint | Manifest) -> dict[int, str]:
    """Give how a vocabulary writes the tokens that mean something to a model."""
    named = {*owner.eos_token_ids, *owner.infill_token_ids, owner.document_start_token_id}
    listed = file.model.vocab | {token.content: token.id for token in file.added_tokens}
    texts = {token_id: text for text, token_id in listed.items()}
    return {token_id: texts.get(token_id, "") for token_id in sorted(named)}


def _cache_facts(
    bytes_per_token: Callable[[CacheDtype], int],
    context_length: int,
    cache_dtypes: Iterable[CacheDtype],
) -> dict[str, CacheFacts]:
    sizes = {dtype: bytes_per_token(dtype) for dtype in cache_dtypes}
    return {dtype: CacheFacts(size, size * context_length) for dtype, size in sizes.items()}


_NAMES = {"float": "fp32", "float16": "fp16", "bfloat16": "bf16", "double": "fp64"}


def _weights(graph: Path, rules: GraphRules) -> Iterator[tuple[str, int]]:
    """Yield how each of a graph's weights is stored, and in how many bytes."""
    for tensor in check_graph(graph, rules).graph.initializer:
        try:
            dtype = ir.DataType(tensor.data_type)
            num_bits = prod(tensor.dims) * dtype.bitwidth
        except (TypeError, ValueError) as error:
            raise refusal(graph, f"tensor {shown(tensor.name)} has no type: {error}") from error
        name = dtype.name.lower()
        yield _NAMES.get(name, name), -(-num_bits // 8)
