"""Laws of the families: the reference's numbers, whatever kind of file the model came in."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from family_files import DATA, FAMILIES, FOLDERS, LATER, check_numbers, published, write_gguf
from scipy.special import log_softmax

from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.fused import not_fusable, write_fused_graph
from aobatch.models.convert.precisions import recipes
from aobatch.models.source.rope import angles
from aobatch.models.spec import Checkpoint, DecoderSpec
from aobatch.models.store.folder import MAX_KL, GraphSizes
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.fused import FusedRunner
from aobatch.runners.onnx import OnnxRunner

KINDS = [(family, kind) for family in (*FAMILIES, *LATER) for kind in ("folder", "gguf")]


@pytest.fixture(params=KINDS + [(family, "folder") for family in FOLDERS])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Checkpoint]:
    """Give each family's tiny model out of a folder of safetensors and out of a GGUF file."""
    family, kind = request.param
    if kind == "gguf":
        return family, read_checkpoint(write_gguf(family, tmp_path / "tiny.gguf"))
    return family, read_checkpoint(published(family, tmp_path / "tiny"))


def test_fp32_gives_the_references_numbers(case: tuple[str, Checkpoint], tmp_path: Path) -> None:
    """Logits are within 2e-4 at every position, and 40 greedy tokens are the reference's."""
    family, checkpoint = case
    assert check_numbers(checkpoint, DATA / f"tiny-{family}", tmp_path) == 40


@pytest.mark.parametrize("family", [*FAMILIES, *LATER, *FOLDERS])
def test_whole_numbers_stay_close(family: str, tmp_path: Path) -> None:
    """Every recipe of int8, fused operators where they hold the weights, is within the gate."""
    checkpoint = read_checkpoint(published(family, tmp_path / "tiny"))
    spec, expected = checkpoint.spec, np.load(DATA / f"tiny-{family}/expected.npz")
    ids, true = expected["input_ids"], log_softmax(expected["logits"].astype(np.float64), axis=1)
    for recipe, way in recipes("int8", spec).items():
        graph = tmp_path / recipe / "model.onnx"
        write_graph(checkpoint, graph.parent, way, lambda *_: None)
        runners: list[ModelRunner] = [OnnxRunner(graph, 1)]
        reason = not_fusable(spec, recipe)
        assert "family" not in reason
        if not reason:
            write_fused_graph(graph, graph.with_name("fused.onnx"), spec)
            sizes = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
            runners.append(FusedRunner(graph.with_name("fused.onnx"), 1, sizes, "int8"))
        for runner in runners:
            runner.reserve(1, 256, [])
            found = log_softmax(runner.prefill([Chunk(0, 0, ids, len(ids))]).astype(float), axis=1)
            assert (np.exp(true) * (true - found)).sum(axis=1).mean() <= MAX_KL, recipe


@pytest.mark.parametrize("family", [*FAMILIES, *LATER])
def test_both_kinds_of_files_give_one_model(family: str, tmp_path: Path) -> None:
    """Sizes, traits and special tokens are the same out of a folder and out of a GGUF file."""
    folder = read_checkpoint(published(family, tmp_path / "tiny"))
    file = read_checkpoint(write_gguf(family, tmp_path / "tiny.gguf"))

    assert file.spec.family == folder.spec.family or family == "mistral"  # it is llama in GGUF
    one, other = flat(folder.spec), flat(file.spec)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert other[name] == (pytest.approx(value, 1e-6) if type(value) is float else value), name
    assert (folder.eos_token_ids, folder.infill_token_ids, folder.document_start_token_id) == (
        file.eos_token_ids,
        file.infill_token_ids,
        file.document_start_token_id,
    )


def flat(spec: DecoderSpec) -> dict[str, object]:
    """Give all that a decoder is made of but its name, each number by itself."""
    found = {k: v for k, v in asdict(spec).items() if k not in ("family", "attentions")}
    for index, layer in enumerate(spec.attentions):
        found[f"{index} window"] = layer.window
        table = angles(layer.rope, spec.head_dim, 3)[-1]
        found |= {f"{index} angle {place}": float(value) for place, value in enumerate(table)}
        found[f"{index} gain"] = layer.rope.gain
    return found
