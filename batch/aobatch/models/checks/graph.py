"""A graph file, looked through to its last message before ONNX Runtime opens it.

What is looked for here is what the runtime does not refuse itself, or only after it did harm: ways
out of the folder, memory beyond all measure, operators that no decoder needs. Sizes of weights that
contradict their data are refused by the runtime. No weight is read.
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

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
    MAX_GRAPH_BYTES,
    MAX_LAYERS,
    MAX_NESTING,
    MAX_PARSED_BYTES,
    MAX_STATIC_ELEMENTS,
    MAX_WIDTH,
    neighbour,
    own_file,
    owned_size,
    read_regular,
    refusal,
    shown,
)
from aobatch.models.spec import DOMAIN, MICROSOFT
from aobatch.models.store.folder import GraphSizes


@dataclass(frozen=True, slots=True)
class GraphRules:
    """What a graph may be made of."""

    operators: frozenset[tuple[str, str]]
    """Domain and name, the standard domain being the empty one."""
    is_ours: bool
    """Whether it has to be as `models.convert.graph` writes it: one graph but for bodies of loops,
    where every node depends on an input, so that nothing is computed, at a size of the file's
    choice, while a session opens."""


def _operators(names: Mapping[str, str]) -> frozenset[tuple[str, str]]:
    return frozenset((domain, name) for domain, line in names.items() for name in line.split())


_OF_EXPERTS = _operators(
    {"": "ConcatFromSequence Loop NonZero SequenceConstruct SequenceInsert Size Unique"}
)
"""What computes the experts in use, one after the other."""

OURS = GraphRules(
    _OF_EXPERTS
    | _operators(
        {
            "": """
                Abs Add Cast Clip Concat Div Equal Gather Gelu Identity MatMul Mul QuantizeLinear
                ReduceMax Relu Reshape ScatterND SimplifiedLayerNormalization Slice Softmax Split
                Tanh TopK Unsqueeze
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

FUSED = GraphRules(
    _operators({"": "Cast Gather", DOMAIN: "AttendSlots MixExperts TransformRows"}),
    is_ours=True,
)
"""What `models.convert.fused` writes."""

EXPORTED = GraphRules(
    OURS.operators - _OF_EXPERTS
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

_DOMAINS = {"": "", "ai.onnx": "", MICROSOFT: MICROSOFT, DOMAIN: DOMAIN}
_UNWANTED = {
    FunctionProto: "functions of its own",
    SparseTensorProto: "sparse tensors",
    TrainingInfoProto: "training information",
}
_RUNTIME_SETTINGS = "ort_config"
"""The metadata in which a model asks ONNX Runtime for settings."""
_SHAPE_INPUTS = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}
"""The operators whose output is as large as an input says, and which input that is."""
_EXTERNAL_KEYS = {"location", "offset", "length", "checksum"}


def check_graph(path: Path, rules: GraphRules) -> ModelProto:
    """Parse a graph file; ModelError if it is not within the rules or its weights not beside it."""
    model = _parse(path)
    for opset in model.opset_import:
        if opset.domain not in _DOMAINS:
            raise refusal(path, f"it uses operators of {shown(opset.domain)}")
    if any(entry.key == _RUNTIME_SETTINGS for entry in model.metadata_props):
        raise refusal(path, f"it brings settings for ONNX Runtime ({_RUNTIME_SETTINGS})")
    messages = [*_messages(model, path)]
    for message in messages:
        if type(message) in _UNWANTED:
            raise refusal(path, f"it has {_UNWANTED[type(message)]}")
    graphs = [message for message in messages if isinstance(message, GraphProto)]
    if rules.is_ours:
        _check_loops(path, graphs)
    _check_external(path, [message for message in messages if isinstance(message, TensorProto)])
    _check_nodes(path, rules, graphs, [m for m in messages if isinstance(m, NodeProto)])
    return model


def _parse(path: Path) -> ModelProto:
    content = read_regular(own_file(path), MAX_GRAPH_BYTES)
    try:
        check_growth(content, ModelProto.DESCRIPTOR)
        model: ModelProto = ModelProto.FromString(content)
    except DecodeError as error:
        raise refusal(path, f"it is no ONNX graph, or a broken one ({error})") from error
    size = model.ByteSize()
    model.DiscardUnknownFields()
    # Another version of the format, such as ONNX Runtime's, could see tensors there.
    if model.ByteSize() != size:
        raise refusal(path, "it has fields that this version of the format does not know")
    return model


def _messages(message: Any, path: Path) -> Iterator[Any]:  # noqa: ANN401 - untyped library
    """Yield a message and everything in it, wherever it hides, a message before its parts."""
    waiting = [message]
    while waiting:
        message = waiting.pop()
        yield message
        for field, value in message.ListFields():
            # Protobuf gives bytes for a string that is not UTF-8.
            if type(value) is bytes and field.type == field.TYPE_STRING:
                raise refusal(path, f"its field {field.name} is not text")
            if field.message_type is not None:
                waiting.extend(value if field.is_repeated else (value,))


def _check_external(path: Path, tensors: Iterable[TensorProto]) -> None:
    """Raise ModelError if a tensor's data is not in a file beside the graph, or in another's."""
    unclaimed: dict[str, int] = {}
    for tensor in tensors:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        named = f"tensor {shown(tensor.name)}"
        entries = {entry.key: entry.value for entry in tensor.external_data}
        if len(entries) != len(tensor.external_data) or not entries.keys() <= _EXTERNAL_KEYS:
            raise refusal(path, f"{named} has the external data keys {shown(sorted(entries))}")
        location = entries.get("location", "")
        try:
            size = owned_size(own_file(neighbour(path, location)))
        except ModelError as error:
            message = f"{path} needs a file beside it, and {error}"
            raise ModelError(message) from error
        numbers = entries.get("offset", "0"), entries.get("length", "0")
        if not all(re.fullmatch(r"[0-9]{1,19}", number) for number in numbers):
            raise refusal(path, f"{named} has the offset and length {shown(numbers)}")
        offset, length = map(int, numbers)
        # Without a length, or with 0, the runtime reads as much as the dimensions need.
        length = length or max(0, size - offset)
        if offset + length > size:
            reason = f"{named} ends at byte {offset + length} of {location}, which has {size}"
            raise refusal(path, reason)
        # Weights that share bytes would take many times the file's size when they are packed.
        unclaimed[location] = unclaimed.get(location, size) - length
        if unclaimed[location] < 0:
            raise refusal(path, f"{named} shares the bytes of other tensors in {location}")


def _check_nodes(
    path: Path, rules: GraphRules, graphs: Iterable[GraphProto], nodes: Iterable[NodeProto]
) -> None:
    """Raise ModelError for operators that are not wanted, or that fill memory by themselves."""
    constants = {tensor.name: tensor for graph in graphs for tensor in graph.initializer}
    for node in nodes:
        domain = _DOMAINS.get(node.domain, node.domain)
        if (domain, node.op_type) not in rules.operators:
            name = f"{domain}.{node.op_type}" if domain else node.op_type
            raise refusal(path, f"no decoder needs the operator {shown(name)}")
        if node.op_type == "Constant":
            for attribute in node.attribute:
                constants.update(dict.fromkeys(node.output, _constant(attribute)))
    for node in nodes:
        if rules.is_ours and all(not name or name in constants for name in node.input):
            raise refusal(path, f"node {shown(node.name)} depends on no input")
        place = _SHAPE_INPUTS.get(node.op_type, len(node.input))
        shape = constants.get(node.input[place]) if place < len(node.input) else None
        if shape is not None and not _is_small(shape):
            raise refusal(path, f"node {shown(node.name)} asks for too large a tensor")


def _check_loops(path: Path, graphs: list[GraphProto]) -> None:
    """Raise ModelError for graphs within ours that are not what is done once a number of a tensor.

    Such a loop ends; loops within loops would take as long as a file likes.
    """
    loops = [node for node in graphs[0].node if node.op_type == "Loop"]
    sizes = {node.output[0] for node in graphs[0].node if node.op_type == "Size" and node.output}
    for node in loops:
        if not node.input or node.input[0] not in sizes:
            raise refusal(path, f"its loop {shown(node.name)} is not one over a tensor")
    if len(graphs) != 1 + len(loops):
        raise refusal(path, "it has graphs within the graph")


def _constant(attribute: AttributeProto) -> TensorProto:
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

_Declared: TypeAlias = dict[str, tuple[int, tuple[int | None, ...]]]
"""Inputs or outputs by name: the element type and the dimensions."""


def check_decoder(path: Path, expected: GraphSizes | None = None) -> GraphSizes:
    """Check a graph file and give its sizes.

    Raises ModelError if it could not be used safely, if it is not a graph as
    `models.convert.graph` describes it, or if its sizes are not the expected ones.
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
    if sizes is None or (inputs, outputs) != _layout(sizes):
        raise refusal(path, "its inputs and outputs are not those of one decoder")
    if expected not in (None, sizes):
        raise refusal(path, f"it has {sizes}, and model.toml says {expected}")
    return sizes


_FUSED_INPUTS: _Declared = {
    "input_ids": (TensorProto.INT64, (None,)),
    "slots": (TensorProto.INT32, (None,)),
    "positions": (TensorProto.INT32, (None,)),
    "logits_index": (TensorProto.INT64, (None,)),
}


def check_fused(path: Path, sizes: GraphSizes) -> None:
    """Check a graph over fused operators.

    Raises ModelError if it could not be used safely, or is not one of these sizes as
    `models.convert.fused` writes it.
    """
    graph = check_graph(path, FUSED).graph
    cache = TensorProto.UINT8, (None, sizes.num_kv_heads, None, None)
    inputs = _FUSED_INPUTS | {f"cache.{layer}": cache for layer in range(sizes.num_layers)}
    outputs: _Declared = {"logits": (TensorProto.FLOAT, (None, sizes.vocab_size))}
    if (_declared(graph.input), _declared(graph.output)) != (inputs, outputs):
        raise refusal(path, f"its inputs and outputs are not those of a decoder with {sizes}")


def dimensions(value: ValueInfoProto) -> tuple[int | None, ...]:
    """Give the dimensions of an input or output, None where a name stands."""
    return tuple(
        size.dim_value if size.HasField("dim_value") else None
        for size in value.type.tensor_type.shape.dim
    )


def _declared(values: Iterable[ValueInfoProto]) -> _Declared:
    return {value.name: (value.type.tensor_type.elem_type, dimensions(value)) for value in values}


def _sizes(inputs: _Declared, outputs: _Declared) -> GraphSizes | None:
    """Read the sizes where they are declared first; None if they are not there."""
    _, past = inputs.get("past.0.key", (0, ()))
    _, logits = outputs.get("logits", (0, ()))
    widths = [size for size in (*past[1::2], *logits[1:]) if size and 0 < size <= MAX_WIDTH]
    num_layers = (len(inputs) - len(_RANKS)) // 2
    if len(widths) != 3 or num_layers > MAX_LAYERS:
        return None
    num_kv_heads, head_dim, vocab_size = widths
    return GraphSizes(vocab_size, num_layers, num_kv_heads, head_dim)


def _layout(sizes: GraphSizes) -> tuple[_Declared, _Declared]:
    """Declare the inputs and outputs of a decoder of such sizes."""
    inputs: _Declared = {
        name: (TensorProto.INT32 if name in _INT32_INPUTS else TensorProto.INT64, (None,) * rank)
        for name, rank in _RANKS.items()
    }
    outputs: _Declared = {"logits": (TensorProto.FLOAT, (None, sizes.vocab_size))}
    cache = TensorProto.FLOAT, (None, sizes.num_kv_heads, None, sizes.head_dim)
    for layer in range(sizes.num_layers):
        for part in ("key", "value"):
            inputs[f"past.{layer}.{part}"] = outputs[f"present.{layer}.{part}"] = cache
    return inputs, outputs


_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MESSAGE_COST, _FIELD_COST, _PACKED_COST = 160, 64, 8
"""Bytes of memory that each costs, a packed one for each of its bytes."""
_UNPACKED = {
    FieldDescriptor.TYPE_FLOAT,
    FieldDescriptor.TYPE_DOUBLE,
    FieldDescriptor.TYPE_STRING,
    FieldDescriptor.TYPE_BYTES,
}
"""Types that take as many bytes in memory as in a file."""


def check_growth(content: bytes, kind: Descriptor) -> None:
    """Raise DecodeError if bytes parse to more memory than the limit, or to nothing.

    Two bytes can be a message, which takes a hundred in memory.
    """
    if len(content) * _MESSAGE_COST // 2 <= MAX_PARSED_BYTES:
        return  # every graph of ours, in no time
    position, left, within = 0, MAX_PARSED_BYTES, [(len(content), _fields(kind))]
    while within:
        end, fields = within[-1]
        if position == end:
            within.pop()
            continue
        tag, position = _varint(content, position)
        cost = fields.get(tag >> 3, 0) if tag & 7 == _BYTES else 0
        position, length = _extent(content, position, tag & 7)
        if position + length > end or len(within) > MAX_NESTING:
            message = "a field is longer than the message that it is in, or nests too deep"
            raise DecodeError(message)
        if isinstance(cost, int):
            position += length
            left -= _FIELD_COST + cost * length
        else:
            within.append((position + length, _fields(cost)))
            left -= _MESSAGE_COST
        if left < 0:
            message = f"reading it would take more than {MAX_PARSED_BYTES} bytes of memory"
            raise DecodeError(message)


def _extent(content: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Give where a field's value begins, and how long it is if it is not behind it already."""
    if wire_type == _BYTES:
        length, position = _varint(content, position)
        return position, length
    if wire_type == _VARINT:
        return _varint(content, position)[1], 0
    if wire_type in (_FIXED32, _FIXED64):
        return position, 8 if wire_type == _FIXED64 else 4
    message = f"a field has the unknown wire type {wire_type}"
    raise DecodeError(message)


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """Read a number of seven bits a byte; give it and where it ends."""
    value = 0
    for place, byte in enumerate(content[position : position + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            return value, position + place + 1
    message = "a number has more than 64 bits, or no end"
    raise DecodeError(message)


@cache
def _fields(kind: Descriptor) -> dict[int, Descriptor | int]:
    """Give for each field its kind of message, or what a byte of it costs beside itself."""
    return {
        field.number: field.message_type or (0 if field.type in _UNPACKED else _PACKED_COST)
        for field in kind.fields
    }
