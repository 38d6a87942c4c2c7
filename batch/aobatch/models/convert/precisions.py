"""Which ways there are to compute in a precision, the quickest first."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from aobatch.arrays import Floats
from aobatch.errors import ModelError
from aobatch.models import PRECISIONS
from aobatch.models.convert.fold import Table, hadamard
from aobatch.models.convert.writer import MICROSOFT, GraphWriter
from aobatch.models.spec import DecoderSpec, Weight

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


_BITS = 8
_BLOCK = 32
_ZERO, _BLOCK_LEVELS = 128, 127
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
        own = np.abs(blocks).max(axis=2) / _BLOCK_LEVELS
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


_CACHE_LEVELS = 127
_SCALE_INPUTS = {"key": 12, "value": 13}
"""Where GroupQueryAttention takes the scales."""


def channel_scales(caches: Iterable[Mapping[str, Floats]]) -> dict[str, NDArray[np.float32]]:
    """Choose scales [kv_heads, head_dim] for keys and values [kv_heads, T, head_dim] by name."""
    peaks: dict[str, Floats] = {}
    for cache in caches:
        for name, array in cache.items():
            size = _pair_lengths(array) if name.endswith(".key") else np.abs(array)
            peak = size.max(axis=1)
            peaks[name] = np.maximum(peaks.get(name, peak), peak)
    # A channel that is always zero keeps a scale that can be divided by.
    return {
        name: np.where(peak == 0, 1, peak / _CACHE_LEVELS).astype(np.float32)
        for name, peak in peaks.items()
    }


def write_int8_cache_graph(
    graph: Path, target: Path, scales: Mapping[str, NDArray[np.float32]]
) -> None:
    """Write beside a decoder graph the same one over an int8 cache; both read the same weights."""
    model = ir.load(graph)
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.name and value.name.startswith(("past.", "present.")):
            value.dtype = ir.DataType.INT8
    attentions = [node for node in model.graph if node.op_type == "GroupQueryAttention"]
    for index, node in enumerate(attentions):
        for part, position in _SCALE_INPUTS.items():
            scale = scales[f"{index}.{part}"][None, :, None, :]
            node.replace_input_with(
                position, _constant(model.graph, f"{index}.{part}.scale", scale)
            )
            node.attributes.add(ir.AttrString(f"{part[0]}_quant_type", "PER_CHANNEL"))
        node.attributes.add(ir.AttrInt64("kv_cache_bit_width", 8))
    ir.save(model, target)


def _pair_lengths(keys: Floats) -> Floats:
    """Give each channel of keys [..., head_dim] the length of its rotary pair, (i, i + half)."""
    first, second = np.split(keys, 2, axis=-1)
    length = np.hypot(first, second)
    return np.concatenate([length, length], axis=-1)


def _constant(graph: ir.Graph, name: str, array: NDArray[np.float32]) -> ir.Value:
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def recipes(precision: str, spec: DecoderSpec) -> Mapping[str, Precision]:
    """Give the ways for a decoder by name; the first that is close enough to fp32 is to be used.

    Raises ModelError for an unknown precision.
    """
    if precision == "fp32":
        return {"fp32": Fp32()}
    if precision == "nbits8":
        return {"blocks of 32": Nbits8()}
    if precision != "int8":
        message = f"precision {precision!r} is unknown; known are {', '.join(PRECISIONS)}"
        raise ModelError(message)
    rotated: dict[str, Precision] = {} if spec.has_post_norms else {"rotated": Int8()}
    return rotated | {"Hadamard blocks": BlockInt8(spec.hidden_size), "blocks of 32": Nbits8()}
