"""Our decoder graph as its file declares it: inputs, outputs, and the sizes they show."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import TensorProto, ValueInfoProto

from aobatch.errors import ModelError
from aobatch.models.checks import refusal
from aobatch.models.checks.graph import check_graph
from aobatch.models.checks.limits import MAX_LAYERS, MAX_WIDTH
from aobatch.models.checks.operators import OURS
from aobatch.models.manifest import GraphSizes

_RANKS = {
    "input_ids": 1,
    "logits_index": 1,
    "pad_index": 2,
    "unpad_index": 1,
    "seqlens_k": 1,
    "query_seqlens": 1,
    "total_length": 0,
}
_INT32_INPUTS = {"seqlens_k", "query_seqlens", "total_length"}
_CACHE_TYPES = (TensorProto.FLOAT, TensorProto.INT8)


@dataclass(frozen=True, slots=True)
class _Declared:
    """An input or output: its element type, and its dimensions, None where a name stands."""

    element_type: int
    dimensions: tuple[int | None, ...]


def check_decoder(path: Path, expected: GraphSizes | None = None) -> GraphSizes:
    """Check a graph file and give its sizes.

    Raises ModelError if it could not be used safely, if it is not a graph as `models.graph`
    describes it, or if its sizes are not the expected ones.
    """
    graph = check_graph(path, OURS).graph
    inputs, outputs = _declared(graph.input), _declared(graph.output)
    missing = sorted(_RANKS.keys() - inputs.keys())
    if missing:
        message = (
            f"{path} is not a graph that aobatch converted, for it has no input {missing[0]!r}; "
            "import the model first"
        )
        raise ModelError(message)
    sizes = _sizes(inputs, outputs)
    if sizes is None or (inputs, outputs) != _layout(sizes, inputs["past.0.key"].element_type):
        raise refusal(path, "its inputs and outputs are not those of one decoder")
    if expected not in (None, sizes):
        raise refusal(path, f"it has {sizes}, and model.toml says {expected}")
    return sizes


def _declared(values: Iterable[ValueInfoProto]) -> dict[str, _Declared]:
    return {
        value.name: _Declared(
            value.type.tensor_type.elem_type,
            tuple(
                dimension.dim_value if dimension.HasField("dim_value") else None
                for dimension in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    }


def _sizes(inputs: Mapping[str, _Declared], outputs: Mapping[str, _Declared]) -> GraphSizes | None:
    """Read the sizes where they are declared first; None if they are not there."""
    past, logits = inputs.get("past.0.key"), outputs.get("logits")
    if past is None or past.element_type not in _CACHE_TYPES or logits is None:
        return None
    match (*past.dimensions, *logits.dimensions):
        case (None, int(num_kv_heads), None, int(head_dim), None, int(vocab_size)):
            num_layers = (len(inputs) - len(_RANKS)) // 2
            sizes = GraphSizes(vocab_size, num_layers, num_kv_heads, head_dim)
            is_possible = num_layers <= MAX_LAYERS and all(
                0 < size <= MAX_WIDTH for size in (num_kv_heads, head_dim, vocab_size)
            )
            return sizes if is_possible else None
    return None


def _layout(
    sizes: GraphSizes, cache_type: int
) -> tuple[dict[str, _Declared], dict[str, _Declared]]:
    """Declare the inputs and outputs of a decoder of such sizes."""
    inputs = {
        name: _Declared(
            TensorProto.INT32 if name in _INT32_INPUTS else TensorProto.INT64, (None,) * rank
        )
        for name, rank in _RANKS.items()
    }
    outputs = {"logits": _Declared(TensorProto.FLOAT, (None, sizes.vocab_size))}
    cache = _Declared(cache_type, (None, sizes.num_kv_heads, None, sizes.head_dim))
    for layer in range(sizes.num_layers):
        for part in ("key", "value"):
            inputs[f"past.{layer}.{part}"] = outputs[f"present.{layer}.{part}"] = cache
    return inputs, outputs
