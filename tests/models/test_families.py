"""Laws of the families: the reference's numbers, whatever kind of file the model came in."""

from pathlib import Path

import numpy as np
import pytest
from family_files import DATA, FAMILIES, published, write_gguf

from aobatch.models.convert.convert import write_graph
from aobatch.models.convert.precisions import FP32
from aobatch.models.spec import Checkpoint
from aobatch.models.store.locate import read_checkpoint
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner


@pytest.fixture(params=[(family, kind) for family in FAMILIES for kind in ("folder", "gguf")])
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Checkpoint]:
    """Give each family's tiny model out of a folder of safetensors and out of a GGUF file."""
    family, kind = request.param
    if kind == "gguf":
        return family, read_checkpoint(write_gguf(family, tmp_path / "tiny.gguf"))
    return family, read_checkpoint(published(family, tmp_path / "tiny"))


def test_fp32_gives_the_references_numbers(case: tuple[str, Checkpoint], tmp_path: Path) -> None:
    """Logits are within 2e-4 at every position, and 40 greedy tokens are the reference's."""
    family, checkpoint = case
    expected = np.load(DATA / f"tiny-{family}/expected.npz")
    write_graph(checkpoint, tmp_path / "graph", FP32, lambda *_: None)
    runner = OnnxRunner(tmp_path / "graph/model.onnx", 1)
    runner.reserve(1, 256, [])
    ids, prompt = expected["input_ids"], expected["greedy_prompt"]

    logits = runner.prefill([Chunk(0, 0, ids, len(ids))])
    np.testing.assert_allclose(expected["logits"], logits, atol=2e-4)
    found, logits = [], runner.prefill([Chunk(0, 0, prompt, 1)])
    for length in range(len(prompt), len(prompt) + 40):
        found.append(int(logits[0].argmax()))
        logits = runner.decode(np.array(found[-1:]), np.array([length]))
    assert expected["greedy_completion"].tolist() == found


@pytest.mark.parametrize("family", FAMILIES)
def test_both_kinds_of_files_give_one_model(family: str, tmp_path: Path) -> None:
    """Sizes, traits and special tokens are the same out of a folder and out of a GGUF file."""
    folder = read_checkpoint(published(family, tmp_path / "tiny"))
    file = read_checkpoint(write_gguf(family, tmp_path / "tiny.gguf"))

    for name in ("hidden_size", "num_layers", "head_dim", "biases", "is_tied", "activation"):
        assert getattr(folder.spec, name) == getattr(file.spec, name)
    assert [x.window for x in folder.spec.attentions] == [x.window for x in file.spec.attentions]
    assert (folder.eos_token_ids, folder.infill_token_ids, folder.document_start_token_id) == (
        file.eos_token_ids,
        file.infill_token_ids,
        file.document_start_token_id,
    )
