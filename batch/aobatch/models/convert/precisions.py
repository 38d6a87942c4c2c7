"""The ways to store and multiply the weights of a decoder, by precision, the quickest first."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.errors import ModelError
from aobatch.models import PRECISIONS
from aobatch.models.convert.fold import Matrix, each_block, hadamard, map_rows, times_blocks
from aobatch.models.convert.writer import GraphWriter
from aobatch.models.spec import MICROSOFT, DecoderSpec, Weight


@dataclass(frozen=True, slots=True)
class Stack:
    """A matrix [out, in] of each expert, folded one at a time, and the number of the one in use."""

    matrices: Callable[[], Iterator[Weight | Matrix]]
    shape: tuple[int, int]
    """Of one."""
    count: int
    expert: ir.Value


Factor: TypeAlias = Weight | Matrix | Stack
"""What an input is multiplied by: a matrix [out, in], or that of the expert in use."""
Multiply: TypeAlias = Callable[[Factor, str], ir.Value]
"""Multiplies an input that was prepared by a weight [out, in], under a name."""
Prepare: TypeAlias = Callable[[GraphWriter, ir.Value, str], Multiply]
"""Prepares an input [N, in], under a name, once for every product that reads it."""


@dataclass(frozen=True, slots=True)
class Precision:
    """One way to store and multiply."""

    name: str
    """What progress calls it."""
    rotates: bool
    """Whether the residual stream is to be rotated before weights are stored."""
    embed: Callable[[GraphWriter, Matrix, ir.Value], ir.Value]
    """Looks up embeddings: [N] ids to [N, hidden] float32."""
    normed: Prepare
    """For an input that was normed."""
    free: Prepare
    """For any input."""
    spread: Prepare
    """For an input known to have outliers."""


def recipes(precision: str, spec: DecoderSpec) -> Mapping[str, Precision]:
    """Give the ways for a decoder by name; the first that is close enough to fp32 is to be used.

    Raises ModelError for an unknown precision.
    """
    if precision == "fp32":
        return {"fp32": FP32}
    if precision == "nbits8":
        return {"blocks of 32": NBITS8}
    if precision != "int8":
        message = f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}"
        raise ModelError(message)
    is_turned = spec.has_pre_norms and not spec.has_post_norms
    rotated = {"rotated": INT8} if is_turned else {}
    return rotated | {"Hadamard blocks": block_int8(spec.hidden_size), "blocks of 32": NBITS8}


def _embed(graph: GraphWriter, table: Matrix, ids: ir.Value) -> ir.Value:
    blocks = map_rows(table, lambda _, rows: rows)
    weight = graph.table("embedding", table.shape, blocks)
    return graph.node("Gather", weight, ids, name="embedded")


def _embed_half(graph: GraphWriter, table: Matrix, ids: ir.Value) -> ir.Value:
    """Keep embeddings as float16: half the file, and an error far below 8 bits'."""
    halves = map_rows(table, lambda _, rows: rows.astype(np.float16))
    half = graph.table("embedding", table.shape, halves)
    rows = graph.node("Gather", half, ids, name="embedded.half")
    return graph.node("Cast", rows, name="embedded", to=ir.DataType.FLOAT)


def _matrices(factor: Factor) -> Iterator[Weight | Matrix]:
    return factor.matrices() if isinstance(factor, Stack) else iter([factor])


def _stored(
    graph: GraphWriter, factor: Factor, name: str, arrays: Iterator[NDArray[Any]]
) -> ir.Value:
    """Store what became of a matrix, or of those of all experts, and give that of the one in use.

    A gather copies one expert's out of the mapped file: those that are not in use are not read.
    """
    if not isinstance(factor, Stack):
        return graph.weight(name, next(arrays))
    stack = graph.stack(name, factor.count, arrays)
    return graph.node("Gather", stack, factor.expert, name=f"{name}.own")


def as_it_is(graph: GraphWriter, x: ir.Value, _: str) -> Multiply:
    """Multiply float32 by float32."""

    def multiply(factor: Factor, name: str) -> ir.Value:
        columns = map(_float_columns, _matrices(factor))
        return graph.node("MatMul", x, _stored(graph, factor, f"{name}.weight", columns), name=name)

    return multiply


def _float_columns(weight: Weight | Matrix) -> Weight:
    columns = np.empty(weight.shape[::-1], np.float32)

    def store(place: slice, rows: Weight) -> None:
        columns[:, place] = rows.T

    each_block(weight, store)
    return columns


_CLIP = 4.0
_LEVELS = 127
_SPREAD_BLOCK, _NORMED_BLOCK = 64, 128


def _clipped(graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
    """Quantise with the one scale that a rotated, normed row needs."""
    scale = graph.shared("clip.scale", np.array(_CLIP / _LEVELS, np.float32))
    quantised = graph.node("QuantizeLinear", x, scale, _zero_point(graph), name=f"{name}.quantised")
    return lambda weight, name: _integer_matmul(graph, (quantised, scale), weight, name)


def _by_row(graph: GraphWriter, x: ir.Value, name: str, block: int = 1) -> Multiply:
    """Quantise every row by its own maximum; products are scaled back."""
    unit = graph.shared("unit.scale", np.array(1 / _LEVELS, np.float32))
    size = graph.node("Abs", x, name=f"{name}.abs")
    axis = graph.shared("last.axis", np.array([-1], np.int64))
    peak = graph.node("ReduceMax", size, axis, name=f"{name}.peak", keepdims=1)
    units = graph.node("Div", x, peak, name=f"{name}.units")
    quantised = graph.node("QuantizeLinear", units, unit, _zero_point(graph), name=f"{name}.q")

    def multiply(weight: Factor, name: str) -> ir.Value:
        product = _integer_matmul(graph, (quantised, unit), weight, f"{name}.product", block)
        return graph.node("Mul", product, peak, name=name)

    return multiply


def _turned(graph: GraphWriter, x: ir.Value, name: str, width: int, most: int) -> Multiply:
    """Turn blocks of the columns of rows by a Hadamard matrix, so that outliers spread."""
    # The largest power of two that divides the width.
    block = min(most, width & -width)
    # No size is left to be inferred: there may be no rows at all.
    shape = np.array([0, width // block, block])
    blocks = graph.shared(f"blocks.{width}.{block}.shape", shape)
    rows = graph.shared(f"rows.{width}.shape", np.array([0, width]))
    matrix = graph.shared(f"hadamard.{block}", hadamard(block).astype(np.float32))
    split = graph.node("Reshape", x, blocks, name=f"{name}.blocks")
    mixed = graph.node("MatMul", split, matrix, name=f"{name}.mixed")
    joined = graph.node("Reshape", mixed, rows, name=f"{name}.joined")
    return _by_row(graph, joined, name, block)


def _spread(graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
    return lambda weight, product: _turned(graph, x, name, weight.shape[1], _SPREAD_BLOCK)(
        weight, product
    )


def _integer_matmul(
    graph: GraphWriter,
    quantised: tuple[ir.Value, ir.Value],
    factor: Factor,
    name: str,
    block: int = 1,
) -> ir.Value:
    """Multiply integers, which come with their scale, by a weight whose blocks are turned too."""
    scales: list[Weight] = []

    def columns() -> Iterator[NDArray[np.int8]]:
        for matrix in _matrices(factor):
            integers, own = _integer_columns(matrix, block)
            scales.append(own)
            yield integers

    return graph.node(
        "MatMulIntegerToFloat",
        quantised[0],
        _stored(graph, factor, f"{name}.weight", columns()),
        quantised[1],
        _stored(graph, factor, f"{name}.scales", iter(scales)),
        _zero_point(graph),
        name=name,
        domain=MICROSOFT,
    )


def _integer_columns(weight: Weight | Matrix, block: int) -> tuple[NDArray[np.int8], Weight]:
    """Give a weight as bytes [in, out], and what its columns are multiplied by."""
    outputs, inputs = weight.shape
    columns, scales = np.empty((inputs, outputs), np.int8), np.empty(outputs)
    turn = hadamard(block)

    def store(place: slice, block_rows: Weight) -> None:
        rows = times_blocks(block_rows.astype(np.float64), turn) if block > 1 else block_rows
        own = np.abs(rows).max(axis=1) / _LEVELS
        own[own == 0] = 1
        columns[:, place] = np.round(rows / own[:, None]).astype(np.int8).T
        scales[place] = own

    each_block(weight, store)
    return columns, scales.astype(np.float32)


def _zero_point(graph: GraphWriter) -> ir.Value:
    return graph.shared("zero.point", np.array(128, np.uint8))


_BLOCK = 32


def matmul_nbits(graph: GraphWriter, x: ir.Value, factor: Factor, name: str) -> ir.Value:
    """Multiply by weight [out, in], each row of which is scaled in blocks."""
    outputs, inputs = factor.shape
    scales: list[Weight] = []

    def blocks() -> Iterator[NDArray[np.uint8]]:
        for matrix in _matrices(factor):
            integers, own = _integer_blocks(matrix)
            scales.append(own)
            yield integers

    return graph.node(
        "MatMulNBits",
        x,
        _stored(graph, factor, f"{name}.weight", blocks()),
        _stored(graph, factor, f"{name}.scales", iter(scales)),
        name=name,
        domain=MICROSOFT,
        K=inputs,
        N=outputs,
        bits=8,
        block_size=_BLOCK,
        accuracy_level=4,  # inputs are rounded to 8 bits, too
    )


def _integer_blocks(weight: Weight | Matrix) -> tuple[NDArray[np.uint8], Weight]:
    """Give a weight as bytes around 128 [out, blocks, 32], and the scales of blocks as one row."""
    outputs, inputs = weight.shape
    num_blocks = -(-inputs // _BLOCK)
    integers = np.empty((outputs, num_blocks, _BLOCK), np.uint8)
    scales = np.empty((outputs, num_blocks), np.float32)

    def store(place: slice, rows: Weight) -> None:
        padded = np.pad(rows, ((0, 0), (0, num_blocks * _BLOCK - inputs)))
        blocks = padded.reshape(len(rows), num_blocks, _BLOCK)
        own = np.abs(blocks).max(axis=2) / _LEVELS
        own[own == 0] = 1
        integers[place] = np.round(blocks / own[:, :, None]) + 128
        scales[place] = own

    each_block(weight, store)
    return integers, scales.reshape(-1)


def _in_blocks(graph: GraphWriter, x: ir.Value, _: str) -> Multiply:
    return lambda weight, name: matmul_nbits(graph, x, weight, name)


FP32 = Precision("fp32", False, _embed, as_it_is, as_it_is, as_it_is)
"""Everything as float32: the reference."""
NBITS8 = Precision("nbits8", False, _embed_half, _in_blocks, _in_blocks, _in_blocks)
"""Every product by MatMulNBits."""
INT8 = Precision("int8", True, _embed_half, _clipped, _by_row, _spread)
"""W8A8 in a rotated residual stream."""


def block_int8(hidden_size: int) -> Precision:
    """Give W8A8 where the residual stream cannot be rotated."""

    def normed(graph: GraphWriter, x: ir.Value, name: str) -> Multiply:
        return _turned(graph, x, name, hidden_size, _NORMED_BLOCK)

    return replace(INT8, rotates=False, normed=normed)
