"""An exported graph's layout, read from the names, types and dimensions that it declares."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto

from aobatch.models.checks import MAX_LAYERS, MAX_WIDTH, shown, unusable
from aobatch.models.checks.graph import EXPORTED, check_graph, dimensions
from aobatch.models.store.folder import Hints


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output: its name, numpy type and dimensions, None where a name stands."""

    name: str
    dtype: str
    dimensions: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class CacheTensor:
    """Keys or values of one layer, or both: what goes in, what comes out, and where tokens lie."""

    layer: int
    past: str
    present: str
    dtype: str
    dimensions: tuple[int, ...]
    """0 stands for the batch and for the tokens."""
    batch_axis: int
    token_axis: int
    tokens_each: int = 1
    """How many tokens an entry of the token axis holds."""

    def shape(self, num_rows: int, num_tokens: int) -> tuple[int, ...]:
        """Give the shape for so many rows of so many tokens."""
        sizes = list(self.dimensions)
        sizes[self.batch_axis] = num_rows
        sizes[self.token_axis] = -(-num_tokens // self.tokens_each)
        return tuple(sizes)


@dataclass(frozen=True, slots=True)
class Layout:
    """One graph's inputs and outputs by their roles; None where the graph does not ask for one."""

    input_ids: Port
    attention_mask: Port | None
    position_ids: Port | None
    use_cache_branch: Port | None
    num_logits_to_keep: Port | None
    logits: Port
    caches: tuple[CacheTensor, ...]
    shares_buffers: bool
    """Whether attention writes into the cache it reads (GroupQueryAttention); otherwise it makes a
    longer one."""
    vocab_size: int
    num_kv_heads: int
    head_dim: int
    precision: str
    """How the weights are kept."""

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of keys and values that a token of a slot takes.

        Attention that makes a longer cache needs the past once more, and what it makes.
        """
        sizes = (prod(c.shape(1, 1)) * np.dtype(c.dtype).itemsize for c in self.caches)
        return sum(sizes) * (1 if self.shares_buffers else 3)

    @property
    def has_one_row(self) -> bool:
        """Whether the graph was exported for a batch of one."""
        return self.input_ids.dimensions[0] == 1


def read_export(path: Path, hints: Hints) -> tuple[Layout, tuple[str, ...]]:
    """Check a graph file; give its layout, and the names of the files that hold its weights.

    Raises ModelError if it is not safe, or no decoder that can run here.
    """
    graph = check_graph(path, EXPORTED).graph
    entries = (entry for tensor in graph.initializer for entry in tensor.external_data)
    data_names = {entry.value for entry in entries if entry.key == "location"}
    return _layout(path, graph, hints), tuple(sorted(data_names))


_DTYPES: Mapping[int, str] = {
    TensorProto.INT64: "int64",
    TensorProto.INT32: "int32",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "uint8",
    TensorProto.BOOL: "bool",
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
}
_FLOATS = ("float32", "float16")
_RANKS = {"attention_mask": 2, "position_ids": 2, "use_cache_branch": 1}
_KEEP_NAMES = ("num_logits_to_keep", "logits_to_keep")
_INTEGERS = ("input_ids", "attention_mask", "position_ids", *_KEEP_NAMES)


def _layout(path: Path, graph: GraphProto, hints: Hints) -> Layout:
    inputs, outputs = _ports(graph.input), _ports(graph.output)
    _check_inputs(path, inputs)
    logits = _checked_logits(path, inputs["input_ids"], outputs.get("logits"))
    caches = _cache_tensors(path, inputs, outputs, hints)
    nodes = [*_nodes(graph)]
    shares = any(node.op_type == "GroupQueryAttention" for node in nodes)
    if shares and "attention_mask" not in inputs:
        raise unusable(path, "its GroupQueryAttention has no attention_mask to say its lengths")
    # A cache of three dimensions has one head of keys and values side by side.
    cache = caches[0].dimensions
    num_kv_heads, head_dim = cache[-3] or 1 if len(cache) > 3 else 1, cache[-1]
    sizes = num_kv_heads, head_dim, logits.dimensions[2] or hints.vocab_size
    if not all(0 < size <= MAX_WIDTH for size in sizes) or len(caches) > 2 * MAX_LAYERS:
        raise unusable(path, f"its sizes {sizes} are not those of a decoder; add its config.json")
    return Layout(
        input_ids=inputs["input_ids"],
        attention_mask=inputs.get("attention_mask"),
        position_ids=inputs.get("position_ids"),
        use_cache_branch=inputs.get("use_cache_branch"),
        num_logits_to_keep=next((inputs[n] for n in _KEEP_NAMES if n in inputs), None),
        logits=logits,
        caches=caches,
        shares_buffers=shares,
        vocab_size=sizes[2],
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        precision=_precision(nodes, graph.initializer),
    )


def _ports(values: Iterable[ValueInfoProto]) -> dict[str, Port]:
    ports = (
        Port(v.name, _DTYPES.get(v.type.tensor_type.elem_type, "unknown"), dimensions(v))
        for v in values
    )
    return {port.name: port for port in ports}


_REASONS: Mapping[str, str] = {
    "inputs_embeds": "it takes embeddings instead of token ids, as parts of larger models do",
    "pixel_values": "it takes pictures, and only models of text alone run here",
    "input_features": "it takes sound, and only models of text alone run here",
    "block_table": "it is made for a paged cache, which has no kernel on a CPU",
    "encoder": "it is a decoder that reads an encoder, and only decoders alone run here",
    "decoder_input_ids": "it is an encoder with a decoder, and only decoders alone run here",
    "conv": "it keeps state other than keys and values (convolutions)",
    "ssm": "it keeps state other than keys and values (a state-space model)",
    "recurrent": "it keeps state other than keys and values (a recurrent layer)",
}
"""Parts of inputs' names, and what they tell."""


def _check_inputs(path: Path, inputs: Mapping[str, Port]) -> None:
    """Raise ModelError if a graph asks for anything that is not known, or not as it is known."""
    for part, reason in _REASONS.items():
        if any(part in name for name in inputs):
            raise unusable(path, reason)
    if "input_ids" not in inputs:
        raise unusable(path, "it has no input named input_ids")
    known = {"input_ids", *_RANKS, *_KEEP_NAMES, *filter(_place, inputs)}
    if unknown := sorted(inputs.keys() - known):
        raise unusable(path, f"nobody here knows its input {shown(unknown[0])}")
    for name, port in inputs.items():
        rank = len(port.dimensions)
        if rank != _RANKS.get(name, rank):
            raise unusable(path, f"its {name} has {rank} dimensions, not {_RANKS[name]}")
        if name in _INTEGERS and port.dtype not in ("int64", "int32"):
            raise unusable(path, f"its {name} is of type {port.dtype}, not a whole number")


def _checked_logits(path: Path, input_ids: Port, logits: Port | None) -> Port:
    """Give the logits; ModelError if not [batch, tokens] goes in and [batch, tokens, V] out."""
    if logits is None:
        raise unusable(path, "it has no output named logits, so it is an encoder or a part")
    if len(input_ids.dimensions) != 2:
        raise unusable(path, "its input_ids are not [batch, tokens]")
    if input_ids.dimensions[0] not in (None, 1) or input_ids.dimensions[1] is not None:
        raise unusable(path, "its inputs have fixed sizes; export it with dynamic axes")
    if len(logits.dimensions) != 3 or logits.dimensions[1] == 1:
        raise unusable(path, "it gives scores of the last token alone; export it with all logits")
    if logits.dtype not in _FLOATS:
        raise unusable(path, f"its logits are of type {logits.dtype}; export it as float32")
    return logits


_NAME = re.compile(
    r"(?P<time>past|present)(?:_key_values)?"
    r"(?:[._](?P<before>key_value|key|value))?[._](?P<layer>\d{1,4})"
    r"(?:[._](?P<behind>key_value|key|value))?"
)
_AXES: Mapping[int, tuple[int, int]] = {3: (0, 1), 4: (0, 2), 5: (1, 3)}
"""Where rows and tokens lie, by the number of dimensions."""


def _place(name: str) -> tuple[int, str] | None:
    """Read the layer and the part out of a name of a cache; None for any other name."""
    match = _NAME.fullmatch(name)
    if match is None or (match["before"] and match["behind"]):
        return None
    return int(match["layer"]), match["before"] or match["behind"] or ""


def _cache_tensors(
    path: Path, inputs: Mapping[str, Port], outputs: Mapping[str, Port], hints: Hints
) -> tuple[CacheTensor, ...]:
    """Pair what goes in with what comes out, by layer and part, in their order.

    Raises ModelError if something has no partner, or is no cache of keys and values as known.
    """
    pasts = {found: port for name, port in inputs.items() if (found := _place(name))}
    presents = {found: port for name, port in outputs.items() if (found := _place(name))}
    if not pasts:
        raise unusable(path, "it keeps no keys and values; export it with its cache (with past)")
    odd = sorted(pasts.keys() ^ presents.keys())
    if odd:
        raise unusable(path, f"layer {odd[0][0]} of its cache goes only in, or only out")
    return tuple(_tensor(path, key[0], pasts[key], presents[key], hints) for key in sorted(pasts))


def _tensor(path: Path, layer: int, past: Port, present: Port, hints: Hints) -> CacheTensor:
    rank = len(past.dimensions)
    if past.dtype not in _FLOATS or present.dtype != past.dtype:
        raise unusable(path, f"its cache {shown(past.name)} is of type {past.dtype}")
    if rank not in _AXES or (rank == 5 and past.dimensions[0] != 2):
        raise unusable(path, f"its cache {shown(past.name)} has {rank} dimensions")
    batch, token = _AXES[rank]
    if past.dimensions[token] is not None:
        raise unusable(path, "its cache has a fixed length; export it with dynamic axes")
    open_sizes = {rank - 1: hints.head_dim, rank - 3: hints.num_kv_heads}
    sizes = [size or open_sizes.get(axis, 0) for axis, size in enumerate(past.dimensions)]
    sizes[batch] = sizes[token] = 0
    if sizes.count(0) > 2:
        reason = f"nothing states the sizes of its cache {shown(past.name)}; add its config.json"
        raise unusable(path, reason)
    return CacheTensor(layer, past.name, present.name, past.dtype, tuple(sizes), batch, token)


_INTEGER_PRODUCTS = {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_PRECISIONS: Mapping[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes of a graph and of its branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _precision(nodes: Iterable[NodeProto], weights: Iterable[TensorProto]) -> str:
    """Name the precision: that of quantised products, else of most of the weights."""
    bits = [
        next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
        for node in nodes
        if node.op_type == "MatMulNBits"
    ]
    if bits:
        return f"int{min(bits)}"
    if any(node.op_type in _INTEGER_PRODUCTS for node in nodes):
        return "int8"
    counts: Counter[int] = Counter()
    for tensor in weights:
        counts[tensor.data_type] += prod(tensor.dims)
    return _PRECISIONS.get(counts.most_common(1)[0][0], "fp32") if counts else "fp32"
