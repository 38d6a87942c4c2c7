"""A graph file, walked to its last message before ONNX Runtime opens it; no weight is read."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from onnx import (
    AttributeProto,
    FunctionProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    TrainingInfoProto,
)

from aobatch.models.checks import refusal, shown
from aobatch.models.checks.files import read_regular
from aobatch.models.checks.limits import MAX_GRAPH_BYTES, MAX_STATIC_ELEMENTS
from aobatch.models.checks.links import own_file
from aobatch.models.checks.operators import GraphRules
from aobatch.models.checks.tensors import TensorCheck
from aobatch.models.checks.wire import WireError, WireReader
from aobatch.models.writer import MICROSOFT

_DOMAINS = {"": "", "ai.onnx": "", MICROSOFT: MICROSOFT}
_UNWANTED = {
    FunctionProto: "functions of its own",
    SparseTensorProto: "sparse tensors",
    TrainingInfoProto: "training information",
}
_RUNTIME_SETTINGS = "ort_config"
"""The metadata in which a model asks ONNX Runtime for settings."""
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""The operators whose output is as large as an input says, and which input that is."""


def check_graph(path: Path, rules: GraphRules) -> ModelProto:
    """Parse a graph file; ModelError if it is not within the rules or its weights not beside it."""
    model = _parse(path)
    try:
        _GraphCheck(path, rules).check(model)
    except WireError as error:
        raise refusal(path, str(error)) from error
    return model


def _parse(path: Path) -> ModelProto:
    content = read_regular(own_file(path), MAX_GRAPH_BYTES)
    try:
        WireReader(content).check(ModelProto.DESCRIPTOR)
        model: ModelProto = ModelProto.FromString(content)
    except (WireError, DecodeError) as error:
        raise refusal(path, f"it is no ONNX graph, or a broken one ({error})") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    # Another version of the format, such as ONNX Runtime's, could see tensors there.
    if model.ByteSize() != size:
        raise refusal(path, "it has fields that this version of the format does not know")
    return model


class _GraphCheck:
    """Checks every message of one graph file."""

    def __init__(self, path: Path, rules: GraphRules) -> None:
        self._path = path
        self._rules = rules
        self._tensors = TensorCheck(path)
        self._constants: dict[str, TensorProto] = {}
        self._num_graphs = 0

    def check(self, model: ModelProto) -> None:
        """Raise ModelError for the first message that is not within the rules."""
        for opset in model.opset_import:
            if opset.domain not in _DOMAINS:
                raise refusal(self._path, f"it uses operators of {shown(opset.domain)}")
        if any(entry.key == _RUNTIME_SETTINGS for entry in model.metadata_props):
            raise refusal(self._path, f"it brings settings for ONNX Runtime ({_RUNTIME_SETTINGS})")
        nodes = []
        # Texts are known to be texts once the last message was seen.
        for message in list(_messages(model)):
            if isinstance(message, TensorProto):
                self._tensors.check(message)
            elif isinstance(message, NodeProto):
                self._check_operator(message)
                nodes.append(message)
            elif isinstance(message, GraphProto):
                self._check_level(message)
            elif type(message) in _UNWANTED:
                raise refusal(self._path, f"it has {_UNWANTED[type(message)]}")
        for node in nodes:
            self._check_inputs(node)

    def _check_operator(self, node: NodeProto) -> None:
        domain = _DOMAINS.get(node.domain, node.domain)
        if (domain, node.op_type) not in self._rules.operators:
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            raise refusal(self._path, f"no decoder needs the operator {shown(name)}")
        if node.op_type == "Constant":
            for attribute in node.attribute:
                self._constants.update(dict.fromkeys(node.output, _value(attribute)))

    def _check_level(self, graph: GraphProto) -> None:
        self._num_graphs += 1
        if self._rules.is_ours and self._num_graphs > 1:
            raise refusal(self._path, "it has graphs within the graph")
        self._constants.update((tensor.name, tensor) for tensor in graph.initializer)

    def _check_inputs(self, node: NodeProto) -> None:
        if self._rules.is_ours and all(not name or name in self._constants for name in node.input):
            raise refusal(self._path, f"node {shown(node.name)} depends on no input")
        place = _SHAPE_INPUTS.get(node.op_type, len(node.input))
        shape = self._constants.get(node.input[place]) if place < len(node.input) else None
        if shape is not None and not _is_small(shape):
            raise refusal(self._path, f"node {shown(node.name)} asks for too large a tensor")


def _messages(message: Any) -> Iterator[Any]:  # noqa: ANN401 - untyped library
    """Yield a message and everything in it, wherever it hides, a message before its parts."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            # Protobuf gives bytes for a string that is not UTF-8.
            if type(value) is bytes and field.type == field.TYPE_STRING:
                reason = f"its field {field.name} is not text"
                raise WireError(reason)
            if field.message_type is not None:
                waiting.extend(value if field.is_repeated else (value,))


def _value(attribute: AttributeProto) -> TensorProto:
    """Give the tensor that a node of the operator Constant stands for."""
    if attribute.type == AttributeProto.TENSOR:
        return attribute.t
    sizes = attribute.ints
    return TensorProto(data_type=TensorProto.INT64, dims=[len(sizes)], int64_data=sizes)


def _is_small(shape: TensorProto) -> bool:
    """Say whether a tensor of a constant shape has no more elements than are allowed."""
    if shape.data_type != TensorProto.INT64 or shape.data_location == TensorProto.EXTERNAL:
        return False
    sizes = np.frombuffer(shape.raw_data, "<i8").tolist() or list(shape.int64_data)
    return min(sizes, default=1) >= 0 and math.prod(sizes) <= MAX_STATIC_ELEMENTS
