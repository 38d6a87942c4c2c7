"""How a precision stores weights and computes `x @ weight.T`."""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir

from aobatch.models.fold import Table
from aobatch.models.spec import Weight
from aobatch.models.writer import GraphWriter

Multiply: TypeAlias = Callable[[Weight | Table, str], ir.Value]
"""Multiplies an input that was prepared by a weight [out, in], under a name."""


class Precision(Protocol):
    """One way to store and multiply the weights of a decoder."""

    name: str
    """What progress calls it."""
    rotates: bool
    """Whether the residual stream is to be rotated before weights are stored."""

    def embed(self, graph: GraphWriter, table: Table, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        ...

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
        """Prepare a normed input [N, hidden] once for every product that reads it."""
        ...

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply any float input [N, in] by weight [out, in]."""
        ...

    def spread(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply like `free` an input known to have outliers."""
        ...


class Fp32:
    """Everything as float32: the reference."""

    name = "fp32"
    rotates = False

    def embed(self, graph: GraphWriter, table: Table, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        weight = graph.table("embedding", table.shape, table.blocks())
        return graph.node("Gather", weight, ids, name="embedded")

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> Multiply:  # noqa: ARG002
        """Multiply the input as it is."""

        def multiply(weight: Weight | Table, name: str) -> ir.Value:
            columns = np.empty(weight.shape[::-1], np.float32)
            for start, rows in row_blocks(weight):
                columns[:, start : start + len(rows)] = rows.T
            return graph.node("MatMul", x, graph.weight(f"{name}.weight", columns), name=name)

        return multiply

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply by weight [out, in]."""
        return self.normed(graph, x, name)(weight, name)

    spread = free


def embed_half(graph: GraphWriter, table: Table, ids: ir.Value) -> ir.Value:
    """Look up embeddings kept as float16: half the file, and an error far below 8 bits'."""
    halves = (block.astype(np.float16) for block in table.blocks())
    half = graph.table("embedding", table.shape, halves)
    rows = graph.node("Gather", half, ids, name="embedded.half")
    return graph.node("Cast", rows, name="embedded", to=ir.DataType.FLOAT)


def row_blocks(weight: Weight | Table) -> Iterator[tuple[int, Weight]]:
    """Yield the rows of a weight, block after block, with the number of the first."""
    start = 0
    for block in weight.blocks() if isinstance(weight, Table) else [weight]:
        yield start, block
        start += len(block)
