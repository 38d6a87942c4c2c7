"""Feed-forward blocks of experts (Shazeer et al. 2017), as nodes that read those in use alone.

A router chooses some experts a token. A loop goes through the experts that any token chose: the
rows of each are gathered, multiplied, and what came out is put back into the tokens' order. Nothing
in it depends on how many rows there are: a lone row is multiplied beside another, since a product
of one row adds up in another order than those of two and more.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir

from aobatch.models.convert.fold import FoldedLayer, Matrix
from aobatch.models.convert.precisions import Multiply, Precision, Stack, as_it_is
from aobatch.models.convert.writer import GraphWriter
from aobatch.models.spec import MICROSOFT, Experts, Weight

_FLOAT, _INT64, _BOOL = ir.DataType.FLOAT, ir.DataType.INT64, ir.DataType.BOOL


def mix_experts(
    graph: GraphWriter, precision: Precision, layer: FoldedLayer, normed: ir.Value
) -> ir.Value:
    """Give for rows [N, hidden] the sum of their experts' outputs by the router's weights."""
    experts, name = layer.checkpoint.spec.experts, f"layers.{layer.index}"
    assert experts is not None
    shares, chosen = _route(graph, layer, experts, normed)
    flat = graph.node("Reshape", chosen, _sizes(graph, -1), name=f"{name}.chosen")
    outputs = _each_expert(graph, precision, layer, (normed, flat))
    width = layer.checkpoint.spec.hidden_size
    shape = _sizes(graph, -1, experts.used, width)
    parts = graph.node("Reshape", outputs, shape, name=f"{name}.parts")
    row = graph.node("Unsqueeze", shares, _sizes(graph, 1), name=f"{name}.share")
    mixed = graph.node("MatMul", row, parts, name=f"{name}.mixed.rows")
    return graph.node("Reshape", mixed, _sizes(graph, -1, width), name=f"{name}.mixed")


def with_unsigned_experts(path: Path) -> bytes | None:
    """Give the graph of a file with the bytes of experts made unsigned when they are chosen.

    Weights that are not constant are multiplied by pairs that saturate on some processors, however
    ONNX Runtime is told to multiply; unsigned ones are not. None if the graph has no experts, or
    cannot be read: that is for the runtime to refuse, which says what is wrong.
    """
    try:
        model = ir.load(path)
    except ir.serde.SerdeError:
        return None
    loops = [node for node in model.graph if node.op_type == "Loop"]
    bodies = (node.attributes["body"].as_graph() for node in loops)
    nodes = [node for body in bodies for node in body if node.op_type == "MatMulIntegerToFloat"]
    for node in nodes:
        weight, zero_point = node.inputs[1], node.inputs[4]  # 128, that of rows
        wrapped = ir.node("Cast", [weight], {"to": ir.DataType.UINT8})
        raised = ir.node("BitwiseXor", [wrapped.outputs[0], zero_point])
        assert node.graph is not None
        node.graph.insert_before(node, [wrapped, raised])
        node.resize_inputs(6)
        node.replace_input_with(1, raised.outputs[0])
        node.replace_input_with(5, zero_point)
    return ir.to_proto(model).SerializeToString() if nodes else None


def _route(
    graph: GraphWriter, layer: FoldedLayer, experts: Experts, normed: ir.Value
) -> tuple[ir.Value, ir.Value]:
    """Give the weights of the experts that each row goes through, and their numbers, [N, used]."""
    name, linear = f"layers.{layer.index}", layer.mlp("router")
    scores = as_it_is(graph, normed, name)(linear.weight, f"{name}.router")
    if linear.bias is not None:
        bias = graph.weight(f"{name}.router.bias", linear.bias)
        scores = graph.node("Add", scores, bias, name=f"{name}.router.biased")
    softmax = partial(graph.node, "Softmax", name=f"{name}.shares", axis=-1)
    if not experts.shares_whole:
        scores = softmax(scores)
    used = _sizes(graph, experts.used)
    best, chosen = graph.node_with_outputs(
        "TopK", [scores, used], 2, name=f"{name}.best", domain="", axis=-1
    )
    return softmax(best) if experts.shares_whole else best, chosen


def _each_expert(
    graph: GraphWriter,
    precision: Precision,
    layer: FoldedLayer,
    rows: tuple[ir.Value, ir.Value],
) -> ir.Value:
    """Compute normed rows by the experts chosen for them, [N * used]; give [N * used, hidden]."""
    (normed, flat), name = rows, f"layers.{layer.index}"
    used, *_ = graph.node_with_outputs("Unique", [flat], 4, name=f"{name}.used", domain="")
    trips = graph.node("Size", used, name=f"{name}.trips")
    none = graph.shared("no.rows", np.zeros(0, np.int64))
    begun = [
        graph.node(
            "SequenceConstruct",
            graph.node("Gather", whole, none, name=f"{name}.{what}.none"),
            name=f"{name}.{what}.begun",
        )
        for what, whole in (("outputs", normed), ("places", flat))
    ]
    body = _body(graph.inner(f"{name}.expert"), precision, layer, (normed, flat, used))
    done = graph.node_with_outputs(
        "Loop", [trips, None, *begun], 2, name=f"{name}.experts", domain="", body=body
    )
    outputs, places = (
        graph.node("ConcatFromSequence", x, name=f"{name}.{what}.joined", axis=0)
        for what, x in zip(("outputs", "places"), done, strict=True)
    )
    column = graph.node("Unsqueeze", places, _sizes(graph, -1), name=f"{name}.places.column")
    return graph.node("ScatterND", outputs, column, outputs, name=f"{name}.outputs.ordered")


def _body(
    graph: GraphWriter,
    precision: Precision,
    layer: FoldedLayer,
    rows: tuple[ir.Value, ir.Value, ir.Value],
) -> ir.Graph:
    """Write what is done for the i-th expert in use: its outputs and their places are appended."""
    (normed, flat, used), name = rows, f"layers.{layer.index}"
    experts = layer.checkpoint.spec.experts
    assert experts is not None
    index = graph.input(f"{name}.i", _INT64, [])
    going = graph.input(f"{name}.going", _BOOL, [])
    sequences = [
        graph.sequence(f"{name}.outputs.before", _FLOAT),
        graph.sequence(f"{name}.places.before", _INT64),
    ]
    expert = graph.node("Gather", used, index, name=f"{name}.expert")
    is_own = graph.node("Equal", flat, expert, name=f"{name}.is.own")
    found = graph.node("NonZero", is_own, name=f"{name}.found")
    places = graph.node("Reshape", found, _sizes(graph, -1), name=f"{name}.places")
    count = graph.shared("experts.used", np.array(experts.used))
    tokens = graph.node("Div", places, count, name=f"{name}.tokens")
    # A second row for a lone one: the first token's.
    beside = graph.node("Concat", tokens, _sizes(graph, 0), name=f"{name}.beside", axis=0)
    x = graph.node("Gather", normed, beside, name=f"{name}.own.rows")
    outputs = _expert(graph, precision, (layer, experts, expert), x)
    start, stop = _sizes(graph, 0), _sizes(graph, -1)
    kept = graph.node("Slice", outputs, start, stop, start, name=f"{name}.kept")
    ends = [graph.node("Identity", going, name=f"{name}.goes.on")]
    for before, more in zip(sequences, (kept, places), strict=True):
        ends.append(graph.node("SequenceInsert", before, more, name=f"{before.name}.and.more"))
    graph.graph.outputs.extend(ends)
    return graph.graph


def _expert(
    graph: GraphWriter,
    precision: Precision,
    own: tuple[FoldedLayer, Experts, ir.Value],
    x: ir.Value,
) -> ir.Value:
    layer, experts, _ = own
    name = f"layers.{layer.index}"
    multiply = precision.normed(graph, x, f"{name}.mlp_input")
    gate = _linear(graph, multiply, own, "gate")
    up = _linear(graph, multiply, own, "up")
    if experts.limit:
        most, least = (
            graph.shared(f"gates.{sign}", np.array(sign * experts.limit, np.float32))
            for sign in (1, -1)
        )
        gate = graph.node("Clip", gate, None, most, name=f"{name}.gate.cut")
        up = graph.node("Clip", up, least, most, name=f"{name}.up.cut")
    if experts.offset:
        offset = graph.shared("gates.offset", np.array(experts.offset, np.float32))
        up = graph.node("Add", up, offset, name=f"{name}.up.raised")
    active = graph.node(
        "QuickGelu", gate, name=f"{name}.silu", domain=MICROSOFT, alpha=experts.sharpness
    )
    inner = graph.node("Mul", active, up, name=f"{name}.gated")
    return _linear(graph, precision.spread(graph, inner, f"{name}.down"), own, "down")


def _linear(
    graph: GraphWriter,
    multiply: Multiply,
    own: tuple[FoldedLayer, Experts, ir.Value],
    part: str,
) -> ir.Value:
    """Multiply by a matrix of the expert in use, and add its bias."""
    layer, experts, expert = own
    name, spec = f"layers.{layer.index}.{part}", layer.checkpoint.spec
    fold = partial(layer.out if part == "down" else layer.mlp, part)
    biases: list[Weight] = []

    def matrices() -> Iterator[Weight | Matrix]:
        for number in range(experts.count):
            linear = fold(number)
            if linear.bias is not None:
                biases.append(linear.bias)
            yield linear.weight

    shape = (spec.intermediate_size, spec.hidden_size)
    stack = Stack(matrices, shape[::-1] if part == "down" else shape, experts.count, expert)
    product = multiply(stack, name)
    if not biases:
        return product
    table = graph.weight(f"{name}.bias", np.stack(biases))
    added = graph.node("Gather", table, expert, name=f"{name}.bias.own")
    return graph.node("Add", product, added, name=f"{name}.biased")


def _sizes(graph: GraphWriter, *sizes: int) -> ir.Value:
    name = "sizes." + ".".join(map(str, sizes))
    return graph.shared(name, np.array(sizes, np.int64))
