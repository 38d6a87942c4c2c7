"""Laws of graphs that other tools export: the operators of decoders, and nothing that loops."""

from pathlib import Path

import onnx
import pytest
from google.protobuf.message import DecodeError
from graph_files import external
from onnx import TensorProto, helper

from aobatch.errors import ModelError
from aobatch.models.checks.graph import EXPORTED, OURS, check_graph, check_growth

# What the graphs of one llama have, as each tool exported it.
OPTIMUM = """
    Add And Cast Concat Constant ConstantOfShape Cos Div Equal Expand Flatten Gather IsNaN
    LessOrEqual MatMul Mul Neg Pow Range ReduceMean Reshape Shape Sigmoid Sin Slice Softmax Sqrt
    Transpose Unsqueeze Where
"""
GENAI = """
    Cast Constant Gather MatMul Mul ReduceSum Reshape Shape Sigmoid SimplifiedLayerNormalization Sub
    Transpose
"""
GENAI_MICROSOFT = """
    GatherBlockQuantized GroupQueryAttention MatMulNBits SkipSimplifiedLayerNormalization
"""
NEVER = ("Loop", "Scan", "EPContext", "RandomUniform", "Optional", "StringConcat")


def written(folder: Path, *nodes: onnx.NodeProto, **fields: list[object]) -> Path:
    """Write a graph of such nodes."""
    value = helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])
    graph = helper.make_graph(nodes, "exported", [value], [value], **fields)
    path = folder / "model.onnx"
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def shape_tensor(*sizes: int) -> TensorProto:
    """Give the tensor `shape`."""
    return helper.make_tensor("shape", TensorProto.INT64, [len(sizes)], sizes)


def test_operators_of_known_exports_are_accepted() -> None:
    """All that optimum and the builder of onnxruntime-genai wrote for a llama is on the list."""
    standard = {("", name) for name in (*OPTIMUM.split(), *GENAI.split())}
    microsoft = {("com.microsoft", name) for name in GENAI_MICROSOFT.split()}

    assert standard | microsoft <= EXPORTED.operators


@pytest.mark.parametrize("domain", ["", "com.microsoft"])
def test_nothing_that_loops_or_loads_is_on_a_list(domain: str) -> None:
    """Neither list has a compiled model, chance or strings, and only ours loops, over experts."""
    never = {(domain, name) for name in NEVER}

    assert not never & EXPORTED.operators
    assert never & OURS.operators <= {("", "Loop")}


def test_merged_exports_may_branch(tmp_path: Path) -> None:
    """`If` with its two graphs passes, and the other name of the standard domain."""
    branch = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "branch", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
    node.domain = "ai.onnx"

    assert check_graph(written(tmp_path, node), EXPORTED).graph.node[0].op_type == "If"


@pytest.mark.parametrize(
    "hidden",
    [
        pytest.param(helper.make_node("Loop", ["x"], ["y"]), id="loop"),
        pytest.param(
            helper.make_node("Constant", [], ["y"], value=external("../secret.bin")), id="constant"
        ),
    ],
)
def test_branches_are_walked(tmp_path: Path, hidden: onnx.NodeProto) -> None:
    """What is refused in a graph is refused within its branches' branches."""
    inner = helper.make_graph([hidden], "inner", [], [])
    outer = helper.make_graph(
        [helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)], "o", [], []
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=outer, else_branch=outer)

    with pytest.raises(ModelError, match=r"'Loop'|'../secret.bin'"):
        check_graph(written(tmp_path, node), EXPORTED)


@pytest.mark.parametrize("place", ["initializer", "value", "value_ints"])
@pytest.mark.parametrize("operator", ["ConstantOfShape", "Expand", "Tile"])
@pytest.mark.parametrize("sizes", [(2**40,), (2**31, 2**31), (-1,), (2**16, 2**16)])
def test_large_tensors_of_constant_shape_are_refused(
    tmp_path: Path, operator: str, sizes: tuple[int, ...], place: str
) -> None:
    """ONNX Runtime would allocate them while it opens the graph, wherever the shape stands."""
    inputs = ["shape"] if operator == "ConstantOfShape" else ["x", "shape"]
    node = helper.make_node(operator, inputs, ["y"])
    if place == "initializer":
        path = written(tmp_path, node, initializer=[shape_tensor(*sizes)])
    else:
        value = sizes if place == "value_ints" else shape_tensor(*sizes)
        constant = helper.make_node("Constant", [], ["shape"], **{place: value})
        path = written(tmp_path, constant, node)

    with pytest.raises(ModelError, match="too large a tensor"):
        check_graph(path, EXPORTED)


def test_small_tensors_of_constant_shape_are_accepted(tmp_path: Path) -> None:
    """As masks of exported graphs are."""
    node = helper.make_node("ConstantOfShape", ["shape"], ["y"])

    assert check_graph(written(tmp_path, node, initializer=[shape_tensor(1, 1)]), EXPORTED)


@pytest.fixture
def _little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow a graph 16 MiB of memory, so that the tests need not fill more."""
    monkeypatch.setattr("aobatch.models.checks.graph.MAX_PARSED_BYTES", 16 << 20)


@pytest.mark.usefixtures("_little_memory")
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(b"\x0a\x00" * (1 << 18), "memory", id="empty-nodes"),
        pytest.param(b"\x2a\x00" * (1 << 18), "memory", id="empty-tensors"),
        pytest.param(b"\x0a\x02\x0a\x00" * (1 << 17), "memory", id="empty-names"),
        pytest.param(
            b"\x2a\x85\x80\x80\x02\x0a\x80\x80\x80\x02" + bytes(1 << 22), "memory", id="packed"
        ),
        pytest.param(b"\x0a\x7f" + b"\x0a" * (1 << 19), "longer", id="longer-than-its-place"),
        pytest.param(b"\x0b" * (1 << 19), "wire type 3", id="groups"),
        pytest.param(b"\xff" * (1 << 19), "64 bits", id="endless-number"),
    ],
)
def test_files_that_grow_in_memory_are_not_parsed(content: bytes, reason: str) -> None:
    """Few bytes that would take many are refused before they are parsed."""
    with pytest.raises(DecodeError, match=reason):
        check_growth(content, onnx.GraphProto.DESCRIPTOR)


@pytest.mark.usefixtures("_little_memory")
def test_large_weights_within_a_graph_take_no_extra_memory() -> None:
    """Raw data counts once, so that a graph with its weights inside is read."""
    content = onnx.GraphProto(
        initializer=[TensorProto(dims=[8 << 20], data_type=1, raw_data=bytes(32 << 20))]
    )

    check_growth(content.SerializeToString(), onnx.GraphProto.DESCRIPTOR)
