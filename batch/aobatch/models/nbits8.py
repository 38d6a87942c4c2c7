"""The precision nbits8: weights as 8-bit integers, each block of 32 of them with its own scale.

The kernel rounds each block of 32 activations of a row by its own maximum.
"""

import numpy as np
import onnx_ir as ir

from aobatch.models.fold import Table
from aobatch.models.precision import Multiply, embed_half, row_blocks
from aobatch.models.spec import Weight
from aobatch.models.writer import MICROSOFT, GraphWriter

_BITS = 8
_BLOCK = 32
_ZERO, _LEVELS = 128, 127
_INTEGER_ACTIVATIONS = 4


class Nbits8:
    """Every product by MatMulNBits."""

    name = "nbits8"
    rotates = False

    def embed(self, graph: GraphWriter, table: Table, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        return embed_half(graph, table, ids)

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> Multiply:  # noqa: ARG002
        """Multiply the input as it is."""
        return lambda weight, name: matmul_nbits(graph, x, weight, name)

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply by weight [out, in]."""
        return matmul_nbits(graph, x, weight, name)

    spread = free


def matmul_nbits(graph: GraphWriter, x: ir.Value, weight: Weight | Table, name: str) -> ir.Value:
    """Multiply by weight [out, in], each row of which is scaled in blocks."""
    outputs, inputs = weight.shape
    num_blocks = -(-inputs // _BLOCK)
    integers = np.empty((outputs, num_blocks, _BLOCK), np.uint8)
    scales = np.empty((outputs, num_blocks), np.float32)
    for start, rows in row_blocks(weight):
        padded = np.pad(rows, ((0, 0), (0, num_blocks * _BLOCK - inputs)))
        blocks = padded.reshape(len(rows), num_blocks, _BLOCK)
        own = np.abs(blocks).max(axis=2) / _LEVELS
        own[own == 0] = 1
        rounded = np.round(blocks / own[:, :, None]) + _ZERO
        integers[start : start + len(rows)] = rounded.astype(np.uint8)
        scales[start : start + len(rows)] = own
    return graph.node(
        "MatMulNBits",
        x,
        graph.weight(f"{name}.weight", integers),
        graph.weight(f"{name}.scales", scales.reshape(-1)),
        name=name,
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=_BITS,
        block_size=_BLOCK,
        accuracy_level=_INTEGER_ACTIVATIONS,
    )
