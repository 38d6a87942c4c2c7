"""A thin pen for ONNX graphs: inputs, weights and nodes with readable names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.tape import Tape

from aobatch.models.spec import MICROSOFT

Attribute: TypeAlias = int | float | str | ir.DataType | ir.Graph
"""What a node's attribute may be."""

_ALIGNMENT = 4096  # a page, since the file is mapped
_SMALL = 1024
"""Bytes below which a constant stays in the graph."""


class GraphWriter:
    """Writes one graph, node by node."""

    def __init__(
        self,
        name: str,
        file: BinaryIO | None = None,
        opsets: Mapping[str, int] | None = None,
        *,
        feeds: dict[str, NDArray[Any]] | None = None,
    ) -> None:
        """Begin a graph; large weights go into the file, so that none has to stay in memory.

        `opsets` are the versions of domains beside ONNX and ONNX Runtime's own. With `feeds` large
        weights are inputs of the graph instead, which are noted there.
        """
        self._file = file
        self._feeds = feeds
        opsets = {"": 20, MICROSOFT: 1, **(opsets or {})}
        self._graph = ir.Graph([], [], nodes=[], opset_imports=opsets, name=name)
        self._tape = Tape(self._graph)
        self._shared: dict[str, ir.Value] = {}
        self._outer: GraphWriter | None = None

    def inner(self, name: str) -> "GraphWriter":
        """Begin a graph for a node of this one, which keeps the constants of both."""
        inner = GraphWriter(name)
        inner._outer = self
        return inner

    @property
    def graph(self) -> ir.Graph:
        """What was written so far."""
        return self._graph

    def input(self, name: str, kind: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
        """Declare a graph input."""
        value = ir.Value(name=name, type=ir.TensorType(kind), shape=ir.Shape(shape))
        self._graph.inputs.append(value)
        return value

    def sequence(self, name: str, kind: ir.DataType) -> ir.Value:
        """Declare a graph input that is a sequence of tensors."""
        value = ir.Value(name=name, type=ir.SequenceType(ir.TensorType(kind)))
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
        if self._outer is not None:
            return self._outer.weight(name, array)
        if self._feeds is not None and array.nbytes >= _SMALL:
            self._feeds[name] = array
            return self.input(name, ir.DataType.from_numpy(array.dtype), array.shape)
        if self._file is None or array.nbytes < _SMALL:
            return self._tape.initializer(ir.tensor(np.ascontiguousarray(array), name=name))
        return self.table(name, array.shape, [array])

    def table(self, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]) -> ir.Value:
        """Store a constant array that comes some rows at a time."""
        if self._outer is not None:
            return self._outer.table(name, shape, blocks)
        if self._file is None:
            return self.weight(name, np.concatenate([*blocks]))
        return self._tape.initializer(append_tensor(self._file, name, shape, blocks))

    def stack(self, name: str, count: int, arrays: Iterator[NDArray[Any]]) -> ir.Value:
        """Store arrays of one shape, [count, ...], that come one at a time."""
        first = next(arrays)
        blocks = (array[None] for array in chain([first], arrays))
        return self.table(name, (count, *first.shape), blocks)

    def stored(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Take a constant over from another graph, where it lies."""
        return self._tape.initializer(tensor)

    def shared(self, name: str, array: NDArray[Any]) -> ir.Value:
        """Store a constant array that several nodes read, once."""
        if self._outer is not None:
            return self._outer.shared(name, array)
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
        domain: str = MICROSOFT,
        **attributes: Attribute,
    ) -> Sequence[ir.Value]:
        """Add a node with several outputs, which take the node's name and their numbers."""
        values = self._tape.op_multi_out(
            kind, inputs, attributes, num_outputs=outputs, domain=domain, name=name
        )
        for index, value in enumerate(values):
            value.name = f"{name}.{index}"
        return values

    def model(self) -> ir.Model:
        """Give the finished model."""
        return ir.Model(self._graph, ir_version=10)


def append_tensor(
    file: BinaryIO, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
) -> ir.ExternalTensor:
    """Write an array that comes some rows at a time behind others; give what refers to it."""
    file.write(bytes(-file.tell() % _ALIGNMENT))
    start = file.tell()
    dtype = np.dtype(np.float32)
    for block in blocks:
        # Not tofile, whose errors do not say that the disk is full.
        file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
        dtype = block.dtype
    path = Path(file.name)
    return ir.ExternalTensor(
        path.name,
        start,
        file.tell() - start,
        ir.DataType.from_numpy(dtype),
        shape=ir.Shape(shape),
        name=name,
        base_dir=path.parent,
    )
