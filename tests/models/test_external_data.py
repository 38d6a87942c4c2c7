"""Laws of weights outside of the graph: each is in a file of the model's own, in full."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_files import branch, changed_graph, external, node_attribute, sparse

from aobatch.errors import ModelError
from aobatch.models.checks.graph import check_decoder
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner

Hide = Callable[[onnx.ModelProto, onnx.TensorProto], object]

POSITIONS: dict[str, Hide] = {
    "initializer": lambda m, t: m.graph.initializer.append(t),
    "sparse-initializer-values": lambda m, t: m.graph.sparse_initializer.append(
        sparse(t, hides_in="values")
    ),
    "sparse-initializer-indices": lambda m, t: m.graph.sparse_initializer.append(
        sparse(t, hides_in="indices")
    ),
    "attribute": lambda m, t: node_attribute(m).t.CopyFrom(t),
    "attribute-list": lambda m, t: node_attribute(m).tensors.append(t),
    "sparse-attribute": lambda m, t: node_attribute(m).sparse_tensor.CopyFrom(
        sparse(t, hides_in="values")
    ),
    "sparse-attribute-list": lambda m, t: node_attribute(m).sparse_tensors.append(
        sparse(t, hides_in="indices")
    ),
    "subgraph": lambda m, t: node_attribute(m).g.CopyFrom(branch(t)),
    "subgraph-list": lambda m, t: node_attribute(m).graphs.append(branch(t)),
    "function": lambda m, t: (
        m.functions.add(name="f", domain="com.microsoft")
        .node.add(op_type="Mul")
        .attribute.add(name="value")
        .t.CopyFrom(t)
    ),
    "training": lambda m, t: m.training_info.add().initialization.initializer.append(t),
}
SEEN_AT_ONCE = ("initializer", "attribute", "attribute-list")
LOCATIONS = {
    "parent": "../secret.bin",
    "subfolder": "sub/secret.bin",
    "absolute": "{outside}/secret.bin",
    "symbolic-link": "link.bin",
    "linked-folder": "linked/secret.bin",
    "hard-link": "hard.bin",
    "missing": "missing.bin",
    "short": "short.bin",
    "pipe": "pipe.bin",
    "folder": "sub",
    "empty": "",
    "itself": ".",
    "hidden": ".hidden",
    "newline": "own.bin\n",
    "zero": "own.bin\0",
    "memory-address": "*/_ORT_MEM_ADDR_/*",
    "long": "x" * 129,
}
"""Ways out of the folder, names with a meaning of their own, and what is no file."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a model folder to be, beside a secret that files in it lead to."""
    secret, folder = tmp_path / "secret.bin", tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    secret.write_bytes(b"sixteen secret b")
    shutil.copy(secret, folder / "sub")
    shutil.copy(secret, folder / "own.bin")
    (folder / "link.bin").symlink_to(secret)
    (folder / "linked").symlink_to(tmp_path)
    (folder / "hard.bin").hardlink_to(secret)
    (folder / "short.bin").write_bytes(b"fifteen secret.")
    os.mkfifo(folder / "pipe.bin")
    return folder


@pytest.mark.parametrize("location", LOCATIONS.values(), ids=LOCATIONS)
@pytest.mark.parametrize("position", POSITIONS)
def test_no_tensor_leads_out_of_the_folder(
    tiny_fp32: ModelFolder, folder: Path, sessions: list[object], position: str, location: str
) -> None:
    """Wherever a tensor hides and whatever way out it takes, no session is opened."""
    tensor = external(location.format(outside=folder.parent), length="16")
    path = changed_graph(tiny_fp32, folder, lambda model: POSITIONS[position](model, tensor))

    with pytest.raises(ModelError, match="is refused") as caught:
        OnnxRunner(path, 1)
    assert sessions == []
    assert "secret b" not in str(caught.value)


@pytest.mark.parametrize("position", SEEN_AT_ONCE)
def test_a_tensor_in_a_file_of_its_own_is_accepted(
    tiny_fp32: ModelFolder, folder: Path, position: str
) -> None:
    """The same tensors pass if they lead to a plain file of the folder: the way out was refused."""
    tensor = external("own.bin", length="16")
    path = changed_graph(tiny_fp32, folder, lambda model: POSITIONS[position](model, tensor))

    assert check_decoder(path).num_layers == 3


@pytest.mark.parametrize("position", [name for name in POSITIONS if name not in SEEN_AT_ONCE])
def test_other_places_of_tensors_are_refused_altogether(
    tiny_fp32: ModelFolder, folder: Path, position: str
) -> None:
    """No graph of ours has sparse tensors, graphs within, functions or training information."""
    tensor = external("own.bin", length="16")
    path = changed_graph(tiny_fp32, folder, lambda model: POSITIONS[position](model, tensor))

    with pytest.raises(ModelError, match=r"sparse|graphs within|functions|training"):
        check_decoder(path)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param({"offset": "-1"}, id="negative-offset"),
        pytest.param({"offset": "1", "length": "16"}, id="beyond-the-end"),
        pytest.param({"offset": str(2**64)}, id="offset-that-wraps"),
        pytest.param({"offset": "٠"}, id="digits-of-another-script"),
        pytest.param({"offset": "0x0"}, id="hexadecimal"),
        pytest.param({"length": str(2**62)}, id="huge-length"),
        pytest.param({"length": "-16"}, id="negative-length"),
        pytest.param({"length": "9" * 5000}, id="endless-length"),
        pytest.param({"prepacked_0": "a|0|16|x"}, id="unknown-key"),
        pytest.param({"basepath": "/"}, id="another-folder"),
    ],
)
def test_offset_and_length_are_exact(
    tiny_fp32: ModelFolder, folder: Path, sessions: list[object], entries: dict[str, str]
) -> None:
    """The data takes as many bytes as type and dimensions need, within the file."""
    tensor = external("own.bin", **entries)
    path = changed_graph(tiny_fp32, folder, lambda model: model.graph.initializer.append(tensor))

    with pytest.raises(ModelError, match="tensor 'outside'"):
        OnnxRunner(path, 1)
    assert sessions == []


Fields = dict[str, object]


def with_embedding(model: ModelFolder, folder: Path, fields: Fields) -> Path:
    """Copy a model and say something else of its largest tensor, which lies outside."""

    def change(graph: onnx.ModelProto) -> None:
        (tensor,) = (t for t in graph.graph.initializer if t.name == "embedding")
        if "dims" in fields:
            tensor.ClearField("dims")
        if "length" in fields:
            (entry,) = (entry for entry in tensor.external_data if entry.key == "length")
            entry.value = fields["length"]
        tensor.MergeFrom(onnx.TensorProto(**{k: v for k, v in fields.items() if k != "length"}))

    return changed_graph(model, folder, change)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"dims": [2**40]}, id="large"),
        pytest.param({"dims": [2**62]}, id="larger"),
        pytest.param({"dims": [-4]}, id="negative"),
        pytest.param({"dims": [-2, -2]}, id="negative-twice"),
        pytest.param({"dims": [2**33, 2**33]}, id="product-that-wraps"),
        pytest.param({"dims": [2**32, 2**32, 0]}, id="nothing-in-a-large-shape"),
        pytest.param({"dims": [1] * 6 + [512, 64]}, id="nine-dimensions"),
        pytest.param({"data_type": onnx.TensorProto.STRING}, id="strings"),
        pytest.param({"data_type": onnx.TensorProto.DOUBLE}, id="twice-as-wide"),
        pytest.param({"data_type": 0}, id="no-type"),
        pytest.param({"data_type": 99}, id="unknown-type"),
        pytest.param({"length": "12"}, id="short"),
    ],
)
@pytest.mark.parametrize("entries", [(), (("session.x64quantprecision", "1"),)])
def test_dimensions_and_types_are_exact(
    tiny_fp32: ModelFolder,
    folder: Path,
    fields: Fields,
    entries: tuple[tuple[str, str], ...],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A product of dimensions is exact, whatever 64 bits would make of it: the runtime refuses.

    So it is where pairs of products saturate, for which a graph is read before it is opened.
    """
    monkeypatch.setattr("aobatch.runners.session.integer_entries", lambda: entries)
    path = with_embedding(tiny_fp32, folder, fields)

    with pytest.raises(ModelError, match=r"^ONNX Runtime cannot open .*model.onnx: .*\S$"):
        OnnxRunner(path, 1)


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"raw_data": b"sixteen bytes ok"}, id="data-in-two-places"),
        pytest.param({"float_data": [1.0] * 4}, id="numbers-beside-the-file"),
        pytest.param({"segment": onnx.TensorProto.Segment(begin=0, end=1)}, id="segment"),
    ],
)
def test_what_is_said_beside_a_file_counts_for_nothing(
    tiny_fp32: ModelFolder, folder: Path, fields: Fields
) -> None:
    """A tensor whose data is in a file is read from there, whatever it holds itself."""
    chunk = Chunk(0, 0, np.arange(5), 1)
    logits = []
    for path in (tiny_fp32.graph, with_embedding(tiny_fp32, folder, fields)):
        runner = OnnxRunner(path, 1)
        runner.reserve(1, 64, [])
        logits.append(runner.prefill([chunk]).copy())

    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize("entries", [{}, {"length": "0"}, {"length": "16"}])
def test_weights_do_not_share_bytes(
    tiny_fp32: ModelFolder, folder: Path, entries: dict[str, str]
) -> None:
    """A file cannot be read as many times its size, which packed weights would take.

    The runtime takes a length of 0 for one that is not said.
    """
    tensor = external("own.bin", **entries)
    path = changed_graph(
        tiny_fp32, folder, lambda model: model.graph.initializer.extend([tensor, tensor])
    )

    with pytest.raises(ModelError, match="shares the bytes"):
        check_decoder(path)


def test_a_key_of_external_data_stands_once(tiny_fp32: ModelFolder, folder: Path) -> None:
    """Two locations would leave it to the reader which one is meant."""
    tensor = external("own.bin")
    tensor.external_data.add(key="location", value="../secret.bin")
    path = changed_graph(tiny_fp32, folder, lambda model: model.graph.initializer.append(tensor))

    with pytest.raises(ModelError, match="external data keys"):
        check_decoder(path)
