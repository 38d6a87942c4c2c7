"""A thin pen for ONNX graphs: inputs, weights and nodes with readable names."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

Attribute: TypeAlias = int | float | ir.DataType
"""What a node's attribute may be."""

MICROSOFT = "com.microsoft"
"""The operator domain of ONNX Runtime's own kernels."""


class GraphWriter:
    """Writes one graph, node by node."""

    def __init__(self, name: str) -> None:
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
        return self._tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))

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

    def model(self) -> ir.Model:
        """Give the finished model."""
        return ir.Model(self._graph, ir_version=10)
