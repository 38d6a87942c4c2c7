"""An exported graph's layout, read from the names, types and dimensions that it declares."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from onnx import ModelProto, TensorProto, ValueInfoProto

from aobatch.models.checks.graph import check_graph
from aobatch.models.checks.limits import MAX_LAYERS, MAX_WIDTH
from aobatch.models.checks.operators import EXPORTED
from aobatch.models.exports.caches import cache_tensors, place
from aobatch.models.exports.layout import CacheTensor, Hints, Layout, Port
from aobatch.models.exports.precision import has_operator, precision_of
from aobatch.models.exports.unsupported import check_inputs, check_ports, unusable

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
_RANKS = {"attention_mask": 2, "position_ids": 2, "use_cache_branch": 1}
_KEEP_NAMES = ("num_logits_to_keep", "logits_to_keep")
_INTEGERS = ("int64", "int32")


def read_export(path: Path, hints: Hints) -> tuple[Layout, tuple[str, ...]]:
    """Check a graph file; give its layout, and the names of the files that hold its weights.

    Raises ModelError if it is not safe, or no decoder that can run here.
    """
    model = check_graph(path, EXPORTED)
    return _layout(path, model, hints), _data_names(model)


def _layout(path: Path, model: ModelProto, hints: Hints) -> Layout:
    inputs, outputs = _ports(model.graph.input), _ports(model.graph.output)
    known = {"input_ids", *_RANKS, *_KEEP_NAMES, *filter(place, inputs)}
    check_inputs(path, inputs, known)
    check_ports(path, inputs["input_ids"], outputs.get("logits"))
    for name, rank in _RANKS.items():
        port = inputs.get(name)
        if port is not None and len(port.dimensions) != rank:
            raise unusable(path, f"its {name} has {len(port.dimensions)} dimensions, not {rank}")
    for port in inputs.values():
        if port.name in ("input_ids", "attention_mask", "position_ids", *_KEEP_NAMES):
            _check_integer(path, port)
    caches = cache_tensors(path, inputs, outputs, hints)
    shares = has_operator(model.graph, "GroupQueryAttention")
    if shares and "attention_mask" not in inputs:
        raise unusable(path, "its GroupQueryAttention has no attention_mask to say its lengths")
    num_kv_heads, head_dim, vocab_size = _sizes(path, caches, outputs["logits"], hints)
    return Layout(
        input_ids=inputs["input_ids"],
        attention_mask=inputs.get("attention_mask"),
        position_ids=inputs.get("position_ids"),
        use_cache_branch=inputs.get("use_cache_branch"),
        num_logits_to_keep=next((inputs[n] for n in _KEEP_NAMES if n in inputs), None),
        logits=outputs["logits"],
        caches=caches,
        shares_buffers=shares,
        vocab_size=vocab_size,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        precision=precision_of(model.graph),
    )


def _ports(values: Iterable[ValueInfoProto]) -> dict[str, Port]:
    return {
        value.name: Port(
            value.name,
            _DTYPES.get(value.type.tensor_type.elem_type, "unknown"),
            tuple(
                size.dim_value if size.HasField("dim_value") else None
                for size in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    }


def _check_integer(path: Path, port: Port) -> None:
    if port.dtype not in _INTEGERS:
        raise unusable(path, f"its {port.name} is of type {port.dtype}, not a whole number")


def _sizes(
    path: Path, caches: tuple[CacheTensor, ...], logits: Port, hints: Hints
) -> tuple[int, int, int]:
    """Give heads of keys, their width and the size of the vocabulary."""
    dimensions = caches[0].dimensions
    # A cache of three dimensions has one head of keys and values side by side.
    heads = dimensions[-3] or 1 if len(dimensions) > 3 else 1
    sizes = heads, dimensions[-1], logits.dimensions[2] or hints.vocab_size
    if not all(0 < size <= MAX_WIDTH for size in sizes) or len(caches) > 2 * MAX_LAYERS:
        raise unusable(path, f"its sizes {sizes} are not those of a decoder; add its config.json")
    return sizes


def _data_names(model: ModelProto) -> tuple[str, ...]:
    return tuple(
        sorted(
            {
                entry.value
                for tensor in model.graph.initializer
                for entry in tensor.external_data
                if entry.key == "location"
            }
        )
    )
