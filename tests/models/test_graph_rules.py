"""Laws of what a graph is made of: operators of decoders, inputs and outputs of ours."""

from pathlib import Path

import onnx
import pytest
from graph_files import Change, changed_graph, external
from onnx import TensorProto

from aobatch.errors import ModelError
from aobatch.models.checks.graph import check_decoder
from aobatch.models.store.folder import GraphSizes, ModelFolder
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.session import open_session

SIZES = GraphSizes(vocab_size=512, num_layers=3, num_kv_heads=2, head_dim=16)


def operator(name: str, domain: str = "") -> Change:
    """Give a change that makes a node one of another operator."""

    def change(model: onnx.ModelProto) -> None:
        model.graph.node[5].op_type = name
        model.graph.node[5].domain = domain

    return change


def unknown_field(model: onnx.ModelProto) -> None:
    """Put a tensor into a field that this version of the format does not know."""
    hidden = external("../secret").SerializeToString()
    model.MergeFromString(bytes([0xA2, 0x06, len(hidden)]) + hidden)


def bytes_as_name(model: onnx.ModelProto) -> None:
    """Give the graph a name that is not UTF-8."""
    model.graph.MergeFromString(b"\x12\x02\xff\xfe")


def constant_product(model: onnx.ModelProto) -> None:
    """Multiply two weights by each other, which a session would do while it opens."""
    name = model.graph.initializer[0].name
    model.graph.node.add(op_type="MatMul", input=[name, name], output=["product"])


def graph_within(model: onnx.ModelProto) -> None:
    """Give a node that is no loop a graph of its own."""
    model.graph.node[5].attribute.add(name="body", type=onnx.AttributeProto.GRAPH).g.name = "inner"


HOSTILE: dict[str, tuple[Change, str]] = {
    "loop": (operator("Loop"), "is not one over a tensor"),
    "graph-within": (graph_within, "graphs within the graph"),
    "filled-tensor": (operator("ConstantOfShape"), "operator 'ConstantOfShape'"),
    "compiled-model": (
        operator("EPContext", "com.microsoft"),
        "operator 'com.microsoft.EPContext'",
    ),
    "python": (operator("PyOp", "pyopmulti"), "operator 'pyopmulti.PyOp'"),
    "name-that-clears-a-screen": (operator("a\n\x1b[2Jb"), r"'a\\n\\x1b\[2Jb'"),
    "another-domain": (operator("Mul", "com.evil"), "operator 'com.evil.Mul'"),
    "domain-without-nodes": (
        lambda model: model.opset_import.add(domain="com.evil", version=1),
        "operators of 'com.evil'",
    ),
    "settings": (
        lambda model: model.metadata_props.add(key="ort_config", value="{}"),
        "settings for ONNX Runtime",
    ),
    "constant-product": (constant_product, "depends on no input"),
    "unknown-field": (unknown_field, "fields that this version"),
    "bytes-as-name": (bytes_as_name, "field name is not text"),
}


@pytest.mark.parametrize(("change", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_what_no_decoder_needs_is_refused(
    tiny_int8: ModelFolder, tmp_path: Path, sessions: list[object], change: Change, reason: str
) -> None:
    """The message names it, and no session is opened."""
    path = changed_graph(tiny_int8, tmp_path, change)

    with pytest.raises(ModelError, match=f"model.onnx is refused: .*{reason}"):
        OnnxRunner(path, 1)
    assert sessions == []


def test_the_same_graph_unchanged_is_accepted(tiny_int8: ModelFolder, tmp_path: Path) -> None:
    """Taken apart and put together it passes, and shows the model's sizes."""
    path = changed_graph(tiny_int8, tmp_path, lambda _: None)

    assert check_decoder(path) == SIZES
    assert check_decoder(path, tiny_int8.manifest.graph_sizes) == SIZES


DIFFERENT: dict[str, Change] = {
    "output-missing": lambda model: model.graph.output.pop(),
    "output-renamed": lambda model: setattr(model.graph.output[-1], "name", "scores"),
    "input-added": lambda model: model.graph.input.add(name="attention_mask"),
    "layer-missing": lambda model: model.graph.input.pop(),
    "rank": lambda model: model.graph.input[0].type.tensor_type.shape.dim.add(dim_value=4),
    "fixed-batch": lambda model: setattr(
        model.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", 4
    ),
    "element-type": lambda model: setattr(
        model.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT
    ),
    "logits-of-another-type": lambda model: [
        setattr(value.type.tensor_type, "elem_type", TensorProto.INT64)
        for value in model.graph.output
        if value.name == "logits"
    ],
    "one-cache-of-another-type": lambda model: setattr(
        model.graph.input[-1].type.tensor_type, "elem_type", TensorProto.INT8
    ),
    "one-cache-of-another-size": lambda model: setattr(
        model.graph.input[-1].type.tensor_type.shape.dim[3], "dim_value", 32
    ),
    "sequence": lambda model: model.graph.input[0].type.sequence_type.elem_type.SetInParent(),
}


@pytest.mark.parametrize("change", DIFFERENT.values(), ids=DIFFERENT)
def test_inputs_and_outputs_are_those_of_one_decoder(
    tiny_fp32: ModelFolder, tmp_path: Path, sessions: list[object], change: Change
) -> None:
    """Names, ranks, element types and sizes are compared before a session binds memory to them."""
    path = changed_graph(tiny_fp32, tmp_path, change)

    with pytest.raises(ModelError, match="inputs and outputs are not those of one decoder"):
        OnnxRunner(path, 1)
    assert sessions == []


def test_a_graph_of_another_tool_is_named_so(tiny_fp32: ModelFolder, tmp_path: Path) -> None:
    """Without the inputs of ours it is told that the model has to be imported."""
    path = changed_graph(tiny_fp32, tmp_path, lambda model: model.graph.ClearField("input"))

    with pytest.raises(ModelError, match=r"not a graph that aobatch converted, .* import the"):
        check_decoder(path)


def test_the_description_agrees_with_the_graph(
    tiny_fp32: ModelFolder, sessions: list[object]
) -> None:
    """A model.toml of another model is told from a broken graph, and opens no session."""
    other = GraphSizes(vocab_size=49152, num_layers=30, num_kv_heads=3, head_dim=64)

    with pytest.raises(ModelError, match=r"num_layers=3, .* model\.toml says .*num_layers=30"):
        OnnxRunner(tiny_fp32.path / "model.onnx", 1, other)
    assert sessions == []


def test_a_model_configures_no_session(
    tiny_fp32: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Settings in a model's metadata are not honoured, whatever the environment says."""
    monkeypatch.setenv("ORT_LOAD_CONFIG_FROM_MODEL", "1")
    monkeypatch.chdir(tmp_path)
    settings = '{"session_options": {"intra_op_num_threads": 3, "enable_profiling": 1}}'
    path = changed_graph(
        tiny_fp32,
        tmp_path,
        lambda model: model.metadata_props.add(key="ort_config", value=settings),
    )
    session = open_session(path, 1)
    options = session.get_session_options()  # type: ignore[attr-defined]

    assert (options.intra_op_num_threads, options.enable_profiling) == (1, False)
