"""How a precision computes `x @ weight.T`: fp32 (the reference) and int8 (W8A8, the default).

int8: weights are int8 with a scale a column; activations are uint8 with zero point 128, the pair
that runs on VNNI as integers, so a result depends on its own row alone. After RMSNorm a rotated
row is nearly Gaussian with RMS 1, and one constant scale (clipped at 4) serves every row; the
inputs of `o` and `down` take their row's maximum, `down`'s after a 64-wide Hadamard block whose
inverse is in the weight.
"""

from typing import Protocol

import numpy as np
import onnx_ir as ir

from aobatch.errors import ModelError
from aobatch.models.fold import hadamard
from aobatch.models.spec import Weight
from aobatch.models.writer import MICROSOFT, GraphWriter

_CLIP = 4.0
_LEVELS = 127
_BLOCK = 64


class Precision(Protocol):
    """One way to store and multiply the weights of a decoder."""

    name: str
    rotates: bool
    """Whether the residual stream is to be rotated before weights are stored."""

    def embed(self, graph: GraphWriter, table: Weight, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        ...

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> ir.Value:
        """Prepare a normed input [N, hidden] for every `after_norm` that reads it."""
        ...

    def after_norm(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply an input that `normed` prepared by weight [out, in]."""
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

    def embed(self, graph: GraphWriter, table: Weight, ids: ir.Value) -> ir.Value:
        """Look up embeddings: [N] ids to [N, hidden] float32."""
        return graph.node("Gather", graph.weight("embedding", table), ids, name="embedded")

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> ir.Value:  # noqa: ARG002
        """Give the input as it is."""
        return x

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply by weight [out, in]."""
        return graph.node("MatMul", x, graph.weight(f"{name}.weight", weight.T), name=name)

    after_norm = free
    spread = free


class Int8:
    """W8A8 on integer units; see the module's docstring."""

    name = "int8"
    rotates = True

    def embed(self, graph: GraphWriter, table: Weight, ids: ir.Value) -> ir.Value:
        """Look up embeddings kept as float16 (half the file; the error is far below int8's)."""
        half = graph.weight("embedding", table.astype(np.float16))
        rows = graph.node("Gather", half, ids, name="embedded.half")
        return graph.node("Cast", rows, name="embedded", to=ir.DataType.FLOAT)

    def normed(self, graph: GraphWriter, x: ir.Value, name: str) -> ir.Value:
        """Quantise with the one scale that a rotated, normed row needs."""
        scale, zero = _shared(graph, "clip.scale", _CLIP / _LEVELS), _zero_point(graph)
        return graph.node("QuantizeLinear", x, scale, zero, name=f"{name}.quantised")

    def after_norm(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Multiply an input that `normed` quantised by weight [out, in]."""
        return _integer_matmul(
            graph, x, _shared(graph, "clip.scale", _CLIP / _LEVELS), weight, name
        )

    def free(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Quantise every row by its own maximum, multiply, scale back."""
        unit = _shared(graph, "unit.scale", 1 / _LEVELS)
        size = graph.node("Abs", x, name=f"{name}.abs")
        peak = graph.node("ReduceMax", size, _last_axis(graph), name=f"{name}.peak", keepdims=1)
        units = graph.node("Div", x, peak, name=f"{name}.units")
        quantised = graph.node("QuantizeLinear", units, unit, _zero_point(graph), name=f"{name}.q")
        product = _integer_matmul(graph, quantised, unit, weight, f"{name}.product")
        return graph.node("Mul", product, peak, name=name)

    def spread(self, graph: GraphWriter, x: ir.Value, weight: Weight, name: str) -> ir.Value:
        """Turn blocks of up to 64 inputs by a Hadamard matrix first, so that outliers spread."""
        outputs, inputs = weight.shape
        block = min(_BLOCK, inputs & -inputs)
        turn = hadamard(block)
        turned = (weight.reshape(outputs, -1, block) @ turn).reshape(outputs, inputs)
        blocks = graph.shared("blocks.shape", np.array([0, -1, block]))
        rows = graph.shared("rows.shape", np.array([0, inputs]))
        matrix = graph.shared("hadamard", turn.astype(np.float32))
        split = graph.node("Reshape", x, blocks, name=f"{name}.blocks")
        mixed = graph.node("MatMul", split, matrix, name=f"{name}.mixed")
        joined = graph.node("Reshape", mixed, rows, name=f"{name}.joined")
        return self.free(graph, joined, turned, name)


def find(name: str) -> Precision:
    """Give a precision by its name; ModelError names the known ones."""
    known: dict[str, type[Fp32] | type[Int8]] = {"fp32": Fp32, "int8": Int8}
    if name not in known:
        message = f"precision {name!r} is unknown; known are {', '.join(known)}"
        raise ModelError(message)
    return known[name]()


def _integer_matmul(
    graph: GraphWriter, x: ir.Value, scale: ir.Value, weight: Weight, name: str
) -> ir.Value:
    scales = np.abs(weight).max(axis=1) / _LEVELS
    scales[scales == 0] = 1
    integers = np.round(weight / scales[:, None]).astype(np.int8)
    return graph.node(
        "MatMulIntegerToFloat",
        x,
        graph.weight(f"{name}.weight", integers.T),
        scale,
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
