"""The precision int8 (W8A8): weights and activations as 8-bit integers.

Weights are int8 with a scale a column; activations are uint8 with zero point 128, the pair that
runs on VNNI as integers, so a result depends on its own row alone. After RMSNorm a rotated row is
nearly Gaussian with RMS 1, and one constant scale (clipped at 4) serves every row. Elsewhere rows
take their own maximum: at the inputs of `o`, at those of `down` behind Hadamard blocks whose
inverse is in the weight, and behind such blocks after RMSNorm too where a family cannot be rotated.
"""

import numpy as np
import onnx_ir as ir

from aobatch.models.fold import Table, hadamard
from aobatch.models.precision import Multiply, embed_half, row_blocks
from aobatch.models.spec import Weight
from aobatch.models.writer import MICROSOFT, GraphWriter

_CLIP = 4.0
_LEVELS = 127
_SPREAD_BLOCK, _NORMED_BLOCK = 64, 128


class Int8:
    """W8A8 in a rotated residual stream."""

    name = "int8"
    rotates = True

    def embed(self, graph: GraphWriter, table: Table, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        return embed_half(graph, table, ids)

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
        """Quantise with the one scale that a rotated, normed row needs."""
        scale, zero = _shared(graph, "clip.scale", _CLIP / _LEVELS), _zero_point(graph)
        quantised = graph.node("QuantizeLinear", x, scale, zero, name=f"{name}.quantised")

        def multiply(weight: Weight | Table, name: str) -> ir.Value:
            return _integer_matmul(graph, (quantised, scale), weight, name)

        return multiply

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Quantise every row by its own maximum, multiply, scale back."""
        return _by_row(graph, x, name)(weight, name)

    def spread(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Turn blocks of up to 64 inputs by a Hadamard matrix first, so that outliers spread."""
        width = weight.shape[1]
        block = _block(width, _SPREAD_BLOCK)
        turned = _turn_blocks(graph, x, (width, block), name)
        return _by_row(graph, turned, name, block)(weight, name)


class BlockInt8(Int8):
    """W8A8 where the residual stream cannot be rotated."""

    rotates = False

    def __init__(self, hidden_size: int) -> None:
        self._hidden_size = hidden_size

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
        """Turn blocks of up to 128 inputs, then quantise every row by its own maximum."""
        block = _block(self._hidden_size, _NORMED_BLOCK)
        turned = _turn_blocks(graph, x, (self._hidden_size, block), name)
        return _by_row(graph, turned, name, block)


def _block(size: int, most: int) -> int:
    """Give the largest power of two that divides a width, up to a limit."""
    return min(most, size & -size)


def _by_row(graph: GraphWriter, x: ir.Value, name: str, block: int = 1) -> Multiply:
    unit = _shared(graph, "unit.scale", 1 / _LEVELS)
    size = graph.node("Abs", x, name=f"{name}.abs")
    peak = graph.node("ReduceMax", size, _last_axis(graph), name=f"{name}.peak", keepdims=1)
    units = graph.node("Div", x, peak, name=f"{name}.units")
    quantised = graph.node("QuantizeLinear", units, unit, _zero_point(graph), name=f"{name}.q")

    def multiply(weight: Weight | Table, name: str) -> ir.Value:
        product = _integer_matmul(graph, (quantised, unit), weight, f"{name}.product", block)
        return graph.node("Mul", product, peak, name=name)

    return multiply


def _turn_blocks(graph: GraphWriter, x: ir.Value, sizes: tuple[int, int], name: str) -> ir.Value:
    """Turn blocks of the columns of rows by a Hadamard matrix; sizes are a row's and a block's."""
    width, block = sizes
    # No size is left to be inferred: there may be no rows at all.
    shape = np.array([0, width // block, block])
    blocks = graph.shared(f"blocks.{width}.{block}.shape", shape)
    rows = graph.shared(f"rows.{width}.shape", np.array([0, width]))
    matrix = graph.shared(f"hadamard.{block}", hadamard(block).astype(np.float32))
    split = graph.node("Reshape", x, blocks, name=f"{name}.blocks")
    mixed = graph.node("MatMul", split, matrix, name=f"{name}.mixed")
    return graph.node("Reshape", mixed, rows, name=f"{name}.joined")


def _integer_matmul(
    graph: GraphWriter,
    quantised: tuple[ir.Value, ir.Value],
    weight: Weight | Table,
    name: str,
    block: int = 1,
) -> ir.Value:
    """Multiply integers, which come with their scale, by a weight whose blocks are turned too."""
    outputs, inputs = weight.shape
    columns, scales = np.empty((inputs, outputs), np.int8), np.empty(outputs)
    turn = hadamard(block)
    for start, block_rows in row_blocks(weight):
        rows = block_rows
        if block > 1:
            rows = (rows.reshape(-1, block) @ turn).reshape(rows.shape)
        own = np.abs(rows).max(axis=1) / _LEVELS
        own[own == 0] = 1
        columns[:, start : start + len(rows)] = np.round(rows / own[:, None]).astype(np.int8).T
        scales[start : start + len(rows)] = own
    return graph.node(
        "MatMulIntegerToFloat",
        quantised[0],
        graph.weight(f"{name}.weight", columns),
        quantised[1],
        graph.weight(f"{name}.scales", scales.astype(np.float32)),
        _zero_point(graph),
        name=name,
        domain=MICROSOFT,
    )


def _shared(graph: GraphWriter, name: str, value: float) -> ir.Value:
    return graph.shared(name, np.array(value, np.float32))


def _zero_point(graph: GraphWriter) -> ir.Value:
    return graph.shared("zero.point", np.array(128, np.uint8))


def _last_axis(graph: GraphWriter) -> ir.Value:
    return graph.shared("last.axis", np.array([-1], np.int64))
