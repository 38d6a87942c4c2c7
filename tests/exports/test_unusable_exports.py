"""Laws of what cannot run: one sentence each, before any session is opened."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from export_files import exported
from graph_surgery import Change, changed
from onnx import TensorProto, ValueInfoProto, helper

from aobatch.errors import ModelError
from aobatch.models.foreign import open_export
from aobatch.models.store import catalogue


def each(values: str, part: str, change: Callable[[ValueInfoProto], object]) -> Change:
    """Change the inputs or outputs that have a part in their names, and nothing else."""
    return lambda graph: [change(v) for v in getattr(graph, values) if part in v.name]


def renamed(values: str, old: str, new: str) -> Change:
    """Call inputs or outputs by another name."""
    return each(values, old, lambda v: setattr(v, "name", v.name.replace(old, new)))


def fixed(values: str, name: str, axis: int, size: int) -> Change:
    """Fix a dimension."""
    dim = "dim_value"
    return each(values, name, lambda v: setattr(v.type.tensor_type.shape.dim[axis], dim, size))


def typed(values: str, part: str, dtype: int) -> Change:
    """Declare another type."""
    return each(values, part, lambda v: setattr(v.type.tensor_type, "elem_type", dtype))


def asking_for(name: str) -> Change:
    """Ask for one more input."""
    value = helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "any"])
    return lambda graph: graph.input.append(value)


REFUSED: dict[str, tuple[Change, str]] = {
    "embeddings": (renamed("input", "input_ids", "inputs_embeds"), "embeddings instead of token"),
    "pictures": (asking_for("pixel_values"), "pictures"),
    "sound": (asking_for("input_features"), "sound"),
    "encoder": (asking_for("encoder_hidden_states"), "reads an encoder"),
    "paged": (asking_for("block_table"), "paged cache"),
    "convolutions": (asking_for("past_conv.0"), "other than keys and values"),
    "state space": (asking_for("past_ssm.0"), "other than keys and values"),
    "unknown": (asking_for("token_type_ids"), "'token_type_ids'"),
    "no cache": (lambda graph: graph.input.__delitem__(slice(3, None)), "no keys and values"),
    "lost cache": (lambda graph: graph.output.pop(), "layer 2 of its cache"),
    "no scores": (renamed("output", "logits", "last_hidden_state"), "no output named logits"),
    "one score": (fixed("output", "logits", 1, 1), "scores of the last token alone"),
    "fixed length": (fixed("input", "input_ids", 1, 128), "fixed sizes"),
    "fixed batch": (fixed("input", "input_ids", 0, 4), "fixed sizes"),
    "8-bit cache": (typed("input", "past_key", TensorProto.INT8), "of type int8"),
    "odd logits": (typed("output", "logits", TensorProto.BFLOAT16), "of type bfloat16"),
    "odd ids": (typed("input", "input_ids", TensorProto.FLOAT), "of type float32"),
    "flat mask": (
        each("input", "attention_mask", lambda v: v.type.tensor_type.shape.dim.pop()),
        "its attention_mask has 1 dimensions, not 2",
    ),
    "custom operator": (
        lambda graph: graph.node.add(op_type="Magic", domain="com.somebody", output=["x"]),
        "com.somebody",
    ),
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
