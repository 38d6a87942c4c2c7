"""Laws of what cannot run: one sentence each, before any session is opened."""

import json
from pathlib import Path

import onnx
import pytest
from export_files import exported
from graph_surgery import Change, changed
from onnx import GraphProto, TensorProto, helper

from aobatch.errors import ModelError
from aobatch.models.foreign import open_export
from aobatch.models.store import catalogue


def with_input(name: str, dtype: int = TensorProto.FLOAT) -> Change:
    """Ask for one more input."""
    value = helper.make_tensor_value_info(name, dtype, ["batch", "any"])
    return lambda graph: graph.input.append(value)


def renamed(values: str, old: str, new: str) -> Change:
    """Call an input or output by another name, and leave the rest of the graph alone."""

    def change(graph: GraphProto) -> None:
        for value in getattr(graph, values):
            value.name = value.name.replace(old, new)

    return change


def fixed(values: str, axis: int, size: int) -> Change:
    """Fix a dimension of the first input or output."""

    def change(graph: GraphProto) -> None:
        getattr(graph, values)[0].type.tensor_type.shape.dim[axis].dim_value = size

    return change


def typed(values: str, part: str, dtype: int) -> Change:
    """Declare another type."""

    def change(graph: GraphProto) -> None:
        for value in getattr(graph, values):
            if part in value.name:
                value.type.tensor_type.elem_type = dtype

    return change


def without(values: str, part: str) -> Change:
    """Leave out inputs or outputs."""

    def change(graph: GraphProto) -> None:
        kept = [value for value in getattr(graph, values) if part not in value.name]
        del getattr(graph, values)[:]
        getattr(graph, values).extend(kept)

    return change


def custom_operator(graph: GraphProto) -> None:
    """Use an operator of somebody's library."""
    graph.node.add(op_type="Magic", domain="com.somebody", output=["x"])


REFUSED = {
    "embeddings": (renamed("input", "input_ids", "inputs_embeds"), "embeddings instead of token"),
    "pictures": (with_input("pixel_values"), "pictures"),
    "sound": (with_input("input_features"), "sound"),
    "encoder": (with_input("encoder_hidden_states"), "reads an encoder"),
    "paged": (with_input("block_table", TensorProto.INT32), "paged cache"),
    "convolutions": (with_input("past_conv.0"), "other than keys and values"),
    "state space": (with_input("past_ssm.0"), "other than keys and values"),
    "unknown": (with_input("token_type_ids"), "'token_type_ids'"),
    "no cache": (without("input", "past_key"), "no keys and values"),
    "lost cache": (without("output", "present.1.key"), "layer 1 of its cache"),
    "no scores": (renamed("output", "logits", "last_hidden_state"), "no output named logits"),
    "one score": (fixed("output", 1, 1), "scores of the last token alone"),
    "fixed length": (fixed("input", 1, 128), "fixed sizes"),
    "fixed batch": (fixed("input", 0, 4), "fixed sizes"),
    "8-bit cache": (typed("input", "past_key", TensorProto.INT8), "of type int8"),
    "odd logits": (typed("output", "logits", TensorProto.BFLOAT16), "of type bfloat16"),
    "odd ids": (typed("input", "input_ids", TensorProto.FLOAT), "of type float32"),
    "custom operator": (custom_operator, "com.somebody"),
}


@pytest.mark.parametrize(("change", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_run_is_refused_in_one_sentence(
    change: Change, reason: str, tmp_path: Path
) -> None:
    """The sentence names the graph and what it asks for."""
    folder = changed(tmp_path / "odd", change)

    with pytest.raises(ModelError, match=reason) as error:
        open_export(folder)
    assert str(folder / "model.onnx") in str(error.value)
    assert "\n" not in str(error.value)


def test_pipelines_are_refused(tmp_path: Path) -> None:
    """A model that was cut up for another processor is none of one graph."""
    folder = exported("llama-genai", tmp_path / "odd")
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["pipeline"] = [{"context": {"filename": "context.onnx"}}]
    (folder / "genai_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match="pipeline for other processors"):
        open_export(folder)


@pytest.mark.parametrize("filename", ["../other.onnx", "", "/etc/passwd", "missing.onnx"])
def test_descriptions_lead_to_no_other_folder(filename: str, tmp_path: Path) -> None:
    """The graph that genai_config.json names lies beside it, or nothing is opened."""
    folder = exported("llama-genai", tmp_path / "odd")
    config = json.loads((folder / "genai_config.json").read_text())
    config["model"]["decoder"]["filename"] = filename
    (folder / "genai_config.json").write_text(json.dumps(config))

    with pytest.raises(ModelError, match=r"names no graph|missing\.onnx is refused"):
        open_export(folder)


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data"])
def test_pointers_and_lost_files_are_told_apart(name: str, tmp_path: Path) -> None:
    """A file that was not fetched, and one that is not there, are named."""
    folder = exported("llama-genai", tmp_path / "odd")
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\nsize 681728\n")
    with pytest.raises(ModelError, match=rf"{name} is only a pointer.*git lfs pull"):
        open_export(folder)

    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} (is refused: No such file|.*No such file)"):
        open_export(folder)


def test_sizes_that_nothing_states_are_asked_for(tmp_path: Path) -> None:
    """A graph that leaves the width of its heads open needs a description beside it."""
    folder = exported("llama-genai", tmp_path / "odd")
    (folder / "genai_config.json").unlink()

    with pytest.raises(ModelError, match=r"add its config\.json"):
        open_export(folder)


def test_exports_are_not_imported(tmp_path: Path) -> None:
    """What needs no conversion is not converted; the sentence says how it is used."""
    folder = exported("llama-optimum", tmp_path / "tiny")
    for path in (folder, folder / "model.onnx"):
        with pytest.raises(ModelError, match=rf"as it is with --model {path}"):
            catalogue.import_model(
                path, "mine", precision="int8", progress=lambda *_: None, scorer=None
            )


def test_odd_graphs_are_changed_in_the_way_that_is_meant(tmp_path: Path) -> None:
    """An export that is only written anew still opens."""
    folder = changed(tmp_path / "same")
    onnx.checker.check_model(onnx.load(folder / "model.onnx"))

    assert open_export(folder).manifest.vocab_size == 512
