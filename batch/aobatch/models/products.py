"""The matrix products of a decoder graph, alone: what its speed can be at most."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from aobatch.models.convert.precisions import matmul_nbits
from aobatch.models.convert.writer import MICROSOFT, GraphWriter

MAX_BYTES = 1 << 30
"""Weights of a model of products; a larger decoder is represented by fewer layers."""


@dataclass(frozen=True, slots=True)
class Product:
    """One shape of matrix product: rows [N, depth] by a weight [depth, width]."""

    depth: int
    width: int
    is_integer: bool
    is_blocked: bool = False
    """Whether float rows meet 8-bit weights with a scale a block."""


def products_of(graph: Path) -> Counter[Product]:
    """Count the products of rows by constant weights in a graph file."""
    model = ir.load(graph)
    products: Counter[Product] = Counter()
    for node in model.graph:
        if node.op_type == "MatMulNBits":
            depth, width = (node.attributes[name].as_int() for name in ("K", "N"))
            products[Product(depth, width, is_integer=False, is_blocked=True)] += 1
        weight = node.inputs[1] if node.op_type in ("MatMul", "MatMulIntegerToFloat") else None
        if weight is not None and weight.is_initializer() and weight.shape is not None:
            depth, width = weight.shape.numpy()
            products[Product(depth, width, node.op_type != "MatMul")] += 1
    return products


def product_model(products: Counter[Product]) -> tuple[bytes, float]:
    """Write a graph of these products, with weights of its own.

    Inputs are `rows.DEPTH.uint8` or `rows.DEPTH.float32`, [N, DEPTH]; outputs `product.INDEX`.
    The second value is how many times the graph would have to run to do all of them.
    """
    graph = GraphWriter("products")
    num_bytes = sum(_size(product) * count for product, count in products.items())
    share = min(1.0, MAX_BYTES / num_bytes)
    inputs: dict[str, ir.Value] = {}
    index = 0
    for product, count in products.items():
        for _ in range(max(1, round(count * share))):
            _add(graph, product, inputs, index)
            index += 1
    return bytes(ir.to_proto(graph.model()).SerializeToString()), 1 / share


def _size(product: Product) -> int:
    return product.depth * product.width * (1 if product.is_integer or product.is_blocked else 4)


def _add(graph: GraphWriter, product: Product, inputs: dict[str, ir.Value], index: int) -> None:
    kind = ir.DataType.UINT8 if product.is_integer else ir.DataType.FLOAT
    name = f"rows.{product.depth}.{'uint8' if product.is_integer else 'float32'}"
    if name not in inputs:
        inputs[name] = graph.input(name, kind, ["N", product.depth])
    generator = np.random.default_rng(index)
    shape = (product.depth, product.width)
    if product.is_integer:
        value = graph.node(
            "MatMulIntegerToFloat",
            inputs[name],
            graph.weight(f"weight.{index}", generator.integers(-127, 128, shape, np.int8)),
            graph.shared("row.scale", np.array(0.01, np.float32)),
            graph.weight(f"scales.{index}", np.ones(product.width, np.float32)),
            graph.shared("zero.point", np.array(128, np.uint8)),
            name=f"node.{index}",
            domain=MICROSOFT,
        )
    elif product.is_blocked:
        rows = generator.random(shape[::-1], np.float32)
        value = matmul_nbits(graph, inputs[name], rows, f"node.{index}")
    else:
        weight = graph.weight(f"weight.{index}", generator.random(shape, np.float32))
        value = graph.node("MatMul", inputs[name], weight, name=f"node.{index}")
    graph.output(value, f"product.{index}", ir.DataType.FLOAT, ["N", product.width])
