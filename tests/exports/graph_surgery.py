"""Optimum's export of the llama put together anew, in the ways in which other tools export one.

What is changed at the border of the graph leaves what is computed within as it was.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from export_files import exported
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.helper import make_graph, make_node, make_tensor_value_info

Change = Callable[[GraphProto], object]
LAYERS = 3


def changed(folder: Path, *changes: Change) -> Path:
    """Lay out the export with changes to its graph."""
    exported("llama-optimum", folder)
    model = onnx.load(folder / "model.onnx")
    for change in changes:
        change(model.graph)
    onnx.save(model, folder / "model.onnx")
    return folder


def whole_numbers(graph: GraphProto) -> None:
    """Take 32-bit integers."""
    for name in ("input_ids", "attention_mask", "position_ids"):
        value = _named(graph.input, name)
        _feed(graph, name, make_node("Cast", [name], [f"{name}.in"], to=TensorProto.INT64))
        value.type.tensor_type.elem_type = TensorProto.INT32


def half_precision_cache(graph: GraphProto) -> None:
    """Keep keys and values as float16, and give the logits as float16."""
    for value in _pasts(graph):
        name = value.name
        _feed(graph, name, make_node("Cast", [name], [f"{name}.in"], to=TensorProto.FLOAT))
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    for value in graph.output:
        inner = _drain(graph, value.name)
        graph.node.append(make_node("Cast", [inner], [value.name], to=TensorProto.FLOAT16))
        value.type.tensor_type.elem_type = TensorProto.FLOAT16


def without_positions(graph: GraphProto) -> None:
    """Count positions from the length of the past."""
    past = _pasts(graph)[0].name
    graph.input.remove(_named(graph.input, "position_ids"))
    _feed(
        graph,
        "position_ids",
        make_node("Shape", [past], ["past.length"], start=2, end=3),
        make_node("Shape", ["input_ids"], ["new.length"], start=1, end=2),
        make_node("Add", ["past.length", "new.length"], ["all.length"]),
        make_node("Squeeze", ["past.length"], ["first"]),
        make_node("Squeeze", ["all.length"], ["stop"]),
        make_node("Range", ["first", "stop", _constant(graph, "one", 1)], ["places"]),
        make_node("Unsqueeze", ["places", _constant(graph, "axis", [0])], ["position_ids.row"]),
        make_node("Shape", ["input_ids"], ["ids.shape"]),
        make_node("Expand", ["position_ids.row", "ids.shape"], ["position_ids.in"]),
    )


def with_branches(graph: GraphProto) -> None:
    """Ignore the past unless `use_cache_branch` says that there is one, as merged exports do."""
    flag = make_tensor_value_info("use_cache_branch", TensorProto.BOOL, [1])
    for value in _pasts(graph):
        name = value.name
        ends = [_constant(graph, "zero", [0]), _constant(graph, "zero", [0])]
        nothing = make_node("Slice", [name, *ends, _constant(graph, "two", [2])], ["none"])
        everything = make_node("Identity", [name], ["all"])
        branches = {
            key: make_graph([node], key, [], [_floats(node.output[0])])
            for key, node in (("then_branch", everything), ("else_branch", nothing))
        }
        _feed(graph, name, make_node("If", [flag.name], [f"{name}.in"], **branches))
    graph.input.append(flag)


def with_kept_logits(shape: Sequence[int]) -> Change:
    """Give only the last logits, as many as an input of that shape says, all if it says 0."""

    def change(graph: GraphProto) -> None:
        keep = make_tensor_value_info("num_logits_to_keep", TensorProto.INT64, shape)
        graph.input.append(keep)
        inner, far = _drain(graph, "logits"), _constant(graph, "far", [2**62])
        kept, rows = _constant(graph, "flat", [1]), _constant(graph, "rows", [1])
        graph.node.append(make_node("Neg", [keep.name], ["kept.from"]))
        graph.node.append(make_node("Reshape", ["kept.from", kept], ["from"]))
        graph.node.append(make_node("Slice", [inner, "from", far, rows], ["logits"]))

    return change


def fused_cache(graph: GraphProto) -> None:
    """Keep keys and values of a layer in one tensor, [2, batch, heads, tokens, width]."""
    for layer in range(LAYERS):
        past, present = f"past_{layer}", f"present_{layer}"
        parts = [(place, f"past_key_values.{layer}.{part}") for place, part in _PARTS]
        for place, name in parts:
            old = _named(graph.input, name)
            graph.input.remove(old)
            index = _constant(graph, f"place.{place}", place)
            _feed(graph, name, make_node("Gather", [past, index], [f"{name}.in"], axis=0))
        made = [_drain(graph, f"present.{layer}.{part}") for _, part in _PARTS]
        for _, part in _PARTS:
            graph.output.remove(_named(graph.output, f"present.{layer}.{part}"))
        axis = _constant(graph, "axis", [0])
        stacked = [f"{name}.stacked" for name in made]
        for name, target in zip(made, stacked, strict=True):
            graph.node.append(make_node("Unsqueeze", [name, axis], [target]))
        graph.node.append(make_node("Concat", stacked, [present], axis=0))
        for values, name, length in ((graph.input, past, "P"), (graph.output, present, "T")):
            shape = [2, "batch", 2, length, 16]
            values.append(make_tensor_value_info(name, TensorProto.FLOAT, shape))


def legacy_names(graph: GraphProto) -> None:
    """Call the cache past_key_0, past_value_0 and so on, the last layer first."""
    for layer in range(LAYERS):
        for _, part in _PARTS:
            _rename_input(graph, f"past_key_values.{layer}.{part}", f"past_{part}_{layer}")
            _rename_output(graph, f"present.{layer}.{part}", f"present_{part}_{layer}")
    for values in (graph.input, graph.output):
        ordered = sorted(values, key=lambda value: value.name, reverse=True)
        del values[:]
        values.extend(ordered)


def one_row(graph: GraphProto) -> None:
    """Take one row at a time."""
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def blind_to_padding(graph: GraphProto) -> None:
    """Attend to whatever is there, masked or not."""
    one = numpy_helper.from_array(np.array([1], np.int64))
    _feed(
        graph,
        "attention_mask",
        make_node("Shape", ["attention_mask"], ["mask.shape"]),
        make_node("ConstantOfShape", ["mask.shape"], ["attention_mask.in"], value=one),
    )


def feeling_neighbours(graph: GraphProto) -> None:
    """Add a little of the batch's largest score to every score, as scales of a batch do."""
    inner = _drain(graph, "logits")
    small = _constant(graph, "small", 1e-3, np.float32)
    graph.node.append(make_node("ReduceMax", [inner], ["largest"], keepdims=0))
    graph.node.append(make_node("Mul", ["largest", small], ["little"]))
    graph.node.append(make_node("Add", [inner, "little"], ["logits"]))


def mixed_up_cache(graph: GraphProto) -> None:
    """Give out the keys of one layer as those of another."""
    _rename_output(graph, "present.0.key", "present.9.key")
    _rename_output(graph, "present.2.key", "present.0.key")
    _rename_output(graph, "present.9.key", "present.2.key")


_PARTS = ((0, "key"), (1, "value"))


def _named(values: Sequence[ValueInfoProto], name: str) -> ValueInfoProto:
    return next(value for value in values if value.name == name)


def _pasts(graph: GraphProto) -> list[ValueInfoProto]:
    return [value for value in graph.input if value.name.startswith("past")]


def _floats(name: str) -> ValueInfoProto:
    return make_tensor_value_info(name, TensorProto.FLOAT, None)


def _constant(graph: GraphProto, name: str, value: object, dtype: type = np.int64) -> str:
    if all(tensor.name != f"new.{name}" for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.array(value, dtype), f"new.{name}"))
    return f"new.{name}"


def _replace(graph: GraphProto, old: str, new: str) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == old:
                    names[place] = new


def _feed(graph: GraphProto, name: str, *nodes: NodeProto) -> None:
    """Let nodes, ahead of all others, make what an input gave so far and call it NAME.in."""
    _replace(graph, name, f"{name}.in")
    others = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *others])


def _drain(graph: GraphProto, name: str) -> str:
    """Free an output's name; give the name of what it gave so far."""
    _replace(graph, name, f"{name}.out")
    return f"{name}.out"


def _rename_input(graph: GraphProto, old: str, new: str) -> None:
    _replace(graph, old, new)
    _named(graph.input, old).name = new


def _rename_output(graph: GraphProto, old: str, new: str) -> None:
    _replace(graph, old, new)
    _named(graph.output, old).name = new
