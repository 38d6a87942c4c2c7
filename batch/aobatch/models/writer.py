"""A thin pen for ONNX graphs: inputs, weights and nodes with readable names."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from aobatch.models.weight_file import WeightFile

Attribute: TypeAlias = int | float | str | ir.DataType
"""What a node's attribute may be."""

MICROSOFT = "com.microsoft"
"""The operator domain of ONNX Runtime's own kernels."""


_SMALL = 1024
"""Bytes below which a constant stays in the graph."""


class GraphWriter:
    """Writes one graph, node by node."""

    def __init__(self, name: str, weights: WeightFile | None = None) -> None:
        """Begin a graph, whose large weights go into a file of their own if there is one."""
        self._weights = weights
        opsets = {"": 20, MICROSOFT: 1}
        self._graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)
        self._tape = Tape(self._graph)
        self._shared: dict[str, ir.Value] = {}

    def input(self, name: str, kind: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def output(
        self, value: ir.Value, name: str, kind: ir.DataType, shape: Sequence[int | str]
    ) -> None:
        """Declare a value as graph output under a name."""
        value.name, value.type, value.shape = name, ir.TensorType(kind), ir.Shape(shape)
        self._graph.outputs.append(value)

    def weight(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Store a constant array."""
        if self._weights is None or array.nbytes < _SMALL:
            return self._tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))
        return self.table(name, array.shape, [array])

    def table(self, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> ir.Value:
        """Store a constant array that comes some rows at a time."""
        if self._weights is None:
            return self.weight(name, np.concatenate([*blocks]))
        return self._tape.initializer(self._weights.append(name, shape, blocks))

    def shared(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Store a constant array that several nodes read, once."""
        if name not in self._shared:
            self._shared[name] = self.weight(name, array)
        return self._shared[name]

    def node(
        self,
        kind: str,
        *inputs: ir.Value | None,
        name: str,
        domain: str = "",
        **attributes: Attribute,
    ) -> ir.Value:
        """Add a node with one output, which takes the node's name."""
        value = self._tape.op(kind, inputs, attributes, domain=domain, name=name)
        value.name = name
        return value

    def node_with_outputs(
        self,
        kind: str,
        inputs: Sequence[ir.Value | None],
        outputs: int,
        *,
        name: str,
        **attributes: Attribute,
    ) -> Sequence[ir.Value]:
        """Add a node of the Microsoft domain with several outputs."""
        values = self._tape.op_multi_out(
            kind, inputs, attributes, num_outputs=outputs, domain=MICROSOFT, name=name
        )
        for index, value in enumerate(values):
            value.name = f"{name}.{index}"
        return values

    def norm(self, x: ir.Value, gain: ir.Value, epsilon: float, name: str) -> ir.Value:
        """Divide rows by their root mean square and multiply them by a gain."""
        return self.node(
            "SimplifiedLayerNormalization",
            *(x, gain),
            name=f"{name}.normed",
            axis=-1,
            epsilon=epsilon,
            stash_type=1,
        )

    def split(self, x: ir.Value, sizes: ir.Value, outputs: int, *, name: str) -> Sequence[ir.Value]:
        """Cut the columns of rows into parts of these sizes."""
        values = self._tape.op_multi_out(
            "Split", [x, sizes], {"axis": -1}, num_outputs=outputs, name=name
        )
        for index, value in enumerate(values):
            value.name = f"{name}.{index}"
        return values

    def model(self) -> ir.Model:
        """Give the finished model."""
        return ir.Model(self._graph, ir_version=10)
