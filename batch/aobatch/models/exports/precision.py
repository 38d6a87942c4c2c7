"""How an exported graph keeps its weights, by its operators and initializers."""

from collections import Counter
from collections.abc import Iterator, Mapping
from math import prod

from onnx import GraphProto, NodeProto, TensorProto

_INTEGER_PRODUCTS = {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}
_NAMES: Mapping[int, str] = {
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
}


def has_operator(graph: GraphProto, name: str) -> bool:
    """Say whether an operator is in a graph or in a branch of it."""
    return any(node.op_type == name for node in _nodes(graph))


def precision_of(graph: GraphProto) -> str:
    """Name the precision: that of quantised products, else of most of the weights."""
    bits = [_bits(node) for node in _nodes(graph) if node.op_type == "MatMulNBits"]
    if bits:
        return f"int{min(bits)}"
    if any(node.op_type in _INTEGER_PRODUCTS for node in _nodes(graph)):
        return "int8"
    counts: Counter[int] = Counter()
    for tensor in graph.initializer:
        counts[tensor.data_type] += prod(tensor.dims)
    return _NAMES.get(counts.most_common(1)[0][0], "fp32") if counts else "fp32"


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            yield node
            waiting.extend(a.g for a in node.attribute if a.HasField("g"))


def _bits(node: NodeProto) -> int:
    return next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
