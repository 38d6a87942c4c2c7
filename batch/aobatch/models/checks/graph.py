"""A graph file, walked to its last message before ONNX Runtime opens it; no weight is read."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.descriptor import Descriptor, FieldDescriptor
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
    ValueInfoProto,
)

from aobatch.errors import ModelError
from aobatch.models.checks import (
    MAX_ELEMENTS,
    MAX_GRAPH_BYTES,
    MAX_LAYERS,
    MAX_NESTING,
    MAX_PARSED_BYTES,
    MAX_RANK,
    MAX_STATIC_ELEMENTS,
    MAX_WIDTH,
    neighbour,
    own_file,
    owned_size,
    read_regular,
    refusal,
    shown,
)
from aobatch.models.convert.writer import MICROSOFT
from aobatch.models.store.folder import GraphSizes


@dataclass(frozen=True, slots=True)
class GraphRules:
    """What a graph may be made of."""

    operators: frozenset[tuple[str, str]]
    """Domain and name, the standard domain being the empty one."""
    is_ours: bool
    """Whether it has to be as `models.graph` writes it: one graph, where every node depends on an
    input, so that nothing is computed, at a size of the file's choice, while a session opens."""


def _operators(names: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((domain, name) for domain, line in names.items() for name in line.split())


OURS = GraphRules(
    _operators(
        {
            "": """
                Abs Add Cast Div Gather Gelu MatMul Mul QuantizeLinear ReduceMax Reshape
                SimplifiedLayerNormalization Split
            """,
            MICROSOFT: """
                GroupQueryAttention MatMulIntegerToFloat MatMulNBits QuickGelu
                SkipSimplifiedLayerNormalization
            """,
        }
    ),
    is_ours=True,
)
"""A family or precision that needs another operator adds it here."""

EXPORTED = GraphRules(
    OURS.operators
    | _operators(
        {
            "": """
                Add And ArgMax Attention CastLike Ceil Clip Concat Constant ConstantOfShape Cos
                CumSum DequantizeLinear DynamicQuantizeLinear Equal Erf Exp Expand Flatten Floor
                GatherElements GatherND Gelu Gemm Greater GreaterOrEqual Identity If IsInf IsNaN
                LayerNormalization Less LessOrEqual Log MatMulInteger Max Min Mod Neg Not Or Pow
                RMSNormalization Range Reciprocal ReduceMean ReduceMin ReduceSum Relu
                RotaryEmbedding Round ScatterElements ScatterND Shape Sigmoid Sin Size Slice
                Softmax Softplus Split Sqrt Squeeze Sub Swish Tanh Tile TopK Transpose Trilu
                Unsqueeze Where
            """,
            MICROSOFT: """
                BiasGelu DynamicQuantizeMatMul FastGelu FusedMatMul GatherBlockQuantized Gelu
                MatMulNBits MultiHeadAttention RotaryEmbedding SkipLayerNormalization
            """,
        }
    ),
    is_ours=False,
)
"""Decoders as optimum and the builder of onnxruntime-genai write them; `If` chooses between the
prompt's and the later steps' graph. Sizes that such a graph computes are not known ahead."""


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE_COST, _FIELD_COST, _PACKED_COST = 160, 64, 8
_MAX_GROWTH = _MESSAGE_COST // 2
_FIXED_TYPES = {
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
}


class WireError(ValueError):
    """The bytes are no protobuf, or would take too much memory."""


class WireReader:
    """Walks the bytes of one message and the messages within."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._left = MAX_PARSED_BYTES

    def check(self, descriptor: Descriptor) -> None:
        """Raise WireError if so many bytes parse to more than the limit, or to nothing."""
        if len(self._content) * _MAX_GROWTH <= MAX_PARSED_BYTES:
            return  # every graph of ours, in no time
        try:
            self._message(0, len(self._content), descriptor, 0)
        except IndexError as error:
            message = "it ends in the middle of a field"
            raise WireError(message) from error

    def _message(self, position: int, end: int, descriptor: Descriptor, depth: int) -> None:
        if depth > MAX_NESTING:
            message = f"messages nest more than {MAX_NESTING} deep"
            raise WireError(message)
        self._spend(_MESSAGE_COST)
        kinds = _kinds(descriptor)
        while position < end:
            tag, position = self._varint(position)
            start, position = self._value(tag & 7, position)
            if position > end:
                message = "a field is longer than the message that it is in"
                raise WireError(message)
            kind = kinds.get(tag >> 3, 0)
            if tag & 7 != _BYTES or isinstance(kind, int):
                self._spend(_FIELD_COST + (position - start) * (kind if tag & 7 == _BYTES else 0))
            else:
                self._message(start, position, kind, depth + 1)

    def _value(self, wire_type: int, position: int) -> tuple[int, int]:
        """Give where a field's value begins and ends."""
        if wire_type == _BYTES:
            length, position = self._varint(position)
            return position, position + length
        if wire_type == _VARINT:
            return position, self._varint(position)[1]
        if wire_type in (_FIXED32, _FIXED64):
            return position, position + (8 if wire_type == _FIXED64 else 4)
        message = f"a field has the unknown wire type {wire_type}"
        raise WireError(message)

    def _varint(self, position: int) -> tuple[int, int]:
        byte = self._content[position]
        if byte < 128:
            return byte, position + 1
        value = shift = 0
        for place in range(position, position + 10):
            byte = self._content[place]
            value |= (byte & 127) << shift
            if byte < 128:
                return value, place + 1
            shift += 7
        message = "a number has more than 64 bits"
        raise WireError(message)

    def _spend(self, num_bytes: int) -> None:
        self._left -= num_bytes
        if self._left < 0:
            message = f"reading it would take more than {MAX_PARSED_BYTES} bytes of memory"
            raise WireError(message)


@cache
def _kinds(descriptor: Descriptor) -> dict[int, Descriptor | int]:
    """Give for each field its kind of message, or what a byte of it costs beside itself."""
    return {
        field.number: field.message_type or (0 if field.type in _FIXED_TYPES else _PACKED_COST)
        for field in descriptor.fields
    }


_BITS: Mapping[int, int] = {
    TensorProto.BOOL: 8,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.INT16: 16,
    TensorProto.UINT16: 16,
    TensorProto.INT32: 32,
    TensorProto.UINT32: 32,
    TensorProto.INT64: 64,
    TensorProto.UINT64: 64,
    TensorProto.FLOAT16: 16,
    TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT: 32,
    TensorProto.DOUBLE: 64,
}
_INT32_TYPES = {kind for kind, bits in _BITS.items() if bits <= 16} | {TensorProto.INT32}
_DATA_FIELDS: Mapping[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
    **dict.fromkeys(_INT32_TYPES, "int32_data"),
}
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}
_MAX_DIGITS = 19


class TensorCheck:
    """Checks the tensors of one graph file; remembers how much of each data file they take."""

    def __init__(self, graph: Path) -> None:
        self._graph = graph
        self._unclaimed: dict[str, int] = {}

    def check(self, tensor: TensorProto) -> None:
        """Raise ModelError if the data is not there in full, in the graph or beside it."""
        num_bytes = self._num_bytes(tensor)
        if tensor.HasField("segment"):
            raise self._refusal(tensor, "is a segment")
        inline = [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]
        if tensor.data_location == TensorProto.EXTERNAL:
            # Protobuf calls the list of keys and values external_data.
            if inline != ["external_data"]:
                raise self._refusal(tensor, "has no data, or data in two places")
            self._check_external(tensor, num_bytes)
        elif inline not in ([], ["raw_data"], [_DATA_FIELDS[tensor.data_type]]):
            raise self._refusal(tensor, f"has data in {', '.join(inline)}, not as its type has it")
        elif _inline_bytes(tensor) != num_bytes:
            raise self._refusal(
                tensor, f"needs {num_bytes} bytes and holds {_inline_bytes(tensor)}"
            )

    def _num_bytes(self, tensor: TensorProto) -> int:
        if tensor.data_type not in _BITS:
            raise self._refusal(tensor, f"has the element type {tensor.data_type}")
        sizes = list(tensor.dims)
        # A size of 0 must not hide a product that wraps around in 64 bits.
        product = math.prod(max(size, 1) for size in sizes)
        if len(sizes) > MAX_RANK or min(sizes, default=0) < 0 or product > MAX_ELEMENTS:
            raise self._refusal(tensor, f"has the dimensions {shown(sizes)}")
        num_bits: int = math.prod(sizes) * _BITS[tensor.data_type]
        return -(-num_bits // 8)

    def _check_external(self, tensor: TensorProto, num_bytes: int) -> None:
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) != len(tensor.external_data) or not entries.keys() <= _EXTERNAL_KEYS:
            raise self._refusal(tensor, f"has the external data keys {shown(sorted(entries))}")
        location = entries.get("location", "")
        path = neighbour(self._graph, location)
        offset = self._integer(tensor, entries.get("offset", "0"))
        if self._integer(tensor, entries.get("length", str(num_bytes))) != num_bytes:
            raise self._refusal(tensor, f"needs {num_bytes} bytes, not {entries['length']}")
        size = self._size(path)
        if offset + num_bytes > size:
            end = offset + num_bytes
            raise self._refusal(tensor, f"ends at byte {end} of {location}, which has {size}")
        # Weights that share bytes would take many times the file's size when they are packed.
        self._unclaimed[location] = self._unclaimed.get(location, size) - num_bytes
        if self._unclaimed[location] < 0:
            raise self._refusal(tensor, f"shares the bytes of other tensors in {location}")

    def _size(self, path: Path) -> int:
        try:
            return owned_size(own_file(path))
        except ModelError as error:
            message = f"{self._graph} needs a file beside it, and {error}"
            raise ModelError(message) from error

    def _integer(self, tensor: TensorProto, text: str) -> int:
        if not (text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
            raise self._refusal(tensor, f"has the offset or length {shown(text)}")
        return int(text)

    def _refusal(self, tensor: TensorProto, what: str) -> ModelError:
        return refusal(self._graph, f"tensor {shown(tensor.name)} {what}")


def stored_bytes(tensor: TensorProto) -> int:
    """Give how many bytes the elements of a checked tensor take."""
    num_bits: int = math.prod(tensor.dims) * _BITS[tensor.data_type]
    return -(-num_bits // 8)


def _inline_bytes(tensor: TensorProto) -> int:
    """Count the bytes of the elements that a tensor holds itself."""
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    count = len(getattr(tensor, _DATA_FIELDS[tensor.data_type]))
    # Elements of four bits stand two to a number.
    return count * max(8, _BITS[tensor.data_type]) // 8


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


_RANKS = {
    "input_ids": 1,
    "logits_index": 1,
    "pad_index": 2,
    "unpad_index": 1,
    "seqlens_k": 1,
    "query_seqlens": 1,
    "total_length": 0,
}
_INT32_INPUTS = {"seqlens_k", "query_seqlens", "total_length"}
_CACHE_TYPES = (TensorProto.FLOAT, TensorProto.INT8)


@dataclass(frozen=True, slots=True)
class _Declared:
    """An input or output: its element type, and its dimensions, None where a name stands."""

    element_type: int
    dimensions: tuple[int | None, ...]


def check_decoder(path: Path, expected: GraphSizes | None = None) -> GraphSizes:
    """Check a graph file and give its sizes.

    Raises ModelError if it could not be used safely, if it is not a graph as `models.graph`
    describes it, or if its sizes are not the expected ones.
    """
    graph = check_graph(path, OURS).graph
    inputs, outputs = _declared(graph.input), _declared(graph.output)
    missing = sorted(_RANKS.keys() - inputs.keys())
    if missing:
        message = (
            f"{path} is not a graph that aobatch converted, for it has no input {missing[0]!r}; "
            "import the model first"
        )
        raise ModelError(message)
    sizes = _sizes(inputs, outputs)
    if sizes is None or (inputs, outputs) != _layout(sizes, inputs["past.0.key"].element_type):
        raise refusal(path, "its inputs and outputs are not those of one decoder")
    if expected not in (None, sizes):
        raise refusal(path, f"it has {sizes}, and model.toml says {expected}")
    return sizes


def _declared(values: Iterable[ValueInfoProto]) -> dict[str, _Declared]:
    return {
        value.name: _Declared(
            value.type.tensor_type.elem_type,
            tuple(
                dimension.dim_value if dimension.HasField("dim_value") else None
                for dimension in value.type.tensor_type.shape.dim
            ),
        )
        for value in values
    }


def _sizes(inputs: Mapping[str, _Declared], outputs: Mapping[str, _Declared]) -> GraphSizes | None:
    """Read the sizes where they are declared first; None if they are not there."""
    past, logits = inputs.get("past.0.key"), outputs.get("logits")
    if past is None or past.element_type not in _CACHE_TYPES or logits is None:
        return None
    match (*past.dimensions, *logits.dimensions):
        case (None, int(num_kv_heads), None, int(head_dim), None, int(vocab_size)):
            num_layers = (len(inputs) - len(_RANKS)) // 2
            sizes = GraphSizes(vocab_size, num_layers, num_kv_heads, head_dim)
            is_possible = num_layers <= MAX_LAYERS and all(
                0 < size <= MAX_WIDTH for size in (num_kv_heads, head_dim, vocab_size)
            )
            return sizes if is_possible else None
    return None


def _layout(
    sizes: GraphSizes, cache_type: int
) -> tuple[dict[str, _Declared], dict[str, _Declared]]:
    """Declare the inputs and outputs of a decoder of such sizes."""
    inputs = {
        name: _Declared(
            TensorProto.INT32 if name in _INT32_INPUTS else TensorProto.INT64, (None,) * rank
        )
        for name, rank in _RANKS.items()
    }
    outputs = {"logits": _Declared(TensorProto.FLOAT, (None, sizes.vocab_size))}
    cache = _Declared(cache_type, (None, sizes.num_kv_heads, None, sizes.head_dim))
    for layer in range(sizes.num_layers):
        for part in ("key", "value"):
            inputs[f"past.{layer}.{part}"] = outputs[f"present.{layer}.{part}"] = cache
    return inputs, outputs
