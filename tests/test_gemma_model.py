"""Laws on the real gemma-3-270m, where somebody accepted its terms and pulled it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.special import log_softmax

from aobatch.cli.main import aobatch
from aobatch.errors import ModelError, RequestError
from aobatch.models.store.catalogue import resolve
from aobatch.models.store.folder import ModelFolder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner

pytestmark = pytest.mark.model

JOBS = Path(__file__).parents[1] / "jobs"


def pulled(name: str) -> ModelFolder:
    """Give a model that is here, or skip the test: its terms are not a test's to accept."""
    try:
        return resolve(name)
    except (ModelError, RequestError) as error:
        pytest.skip(f"{name} was not pulled ({error})")


@pytest.fixture(scope="session")
def cases(data: Path) -> list[dict[str, list[float]]]:
    """Give prompts with the reference's tokens, logprobs and margins."""
    return json.loads((data / "gemma-3-270m.json").read_text())["cases"]


def test_prompts_have_the_references_tokens(cases: list[dict[str, list[float]]]) -> None:
    """The pieces and scores out of the GGUF give the reference's token ids."""
    folder = pulled("gemma-3-270m")
    tokenizer = load_tokenizer(folder)

    assert folder.manifest.adds_document_start
    for case in cases:
        found = [folder.manifest.document_start_token_id, *tokenizer.encode(case["prompt"])]
        assert case["prompt_token_ids"] == found


def test_fp32_gives_the_references_logprobs(cases: list[dict[str, list[float]]]) -> None:
    """Logprobs are within 5e-3, greedy tokens equal wherever the margin exceeds 0.05."""
    runner = OnnxRunner(pulled("gemma-3-270m-fp32").graph, 2)
    runner.reserve(1, 256, [])
    for case in cases:
        ids, completion = case["prompt_token_ids"], np.array(case["completion_token_ids"])
        sequence = np.concatenate([ids, completion]).astype(np.int64)
        logits = runner.prefill([Chunk(0, 0, sequence, len(sequence))])
        found = log_softmax(logits, axis=1)[np.arange(len(sequence) - 1), sequence[1:]]
        expected = [*case["prompt_logprobs"][1:], *case["completion_logprobs"]]
        np.testing.assert_allclose(expected, found, atol=5e-3)
        best = logits[len(ids) - 1 : -1].argmax(axis=1)
        is_clear = np.array(case["margin"]) > 0.05
        np.testing.assert_array_equal(completion[is_clear], best[is_clear])


def test_int8_is_close_to_fp32() -> None:
    """The gate's measurements, of the graph and of the fused one, are kept."""
    manifest = pulled("gemma-3-270m").manifest

    assert manifest.quality is not None
    assert manifest.quality.kl <= 0.02
    assert manifest.fused.quality is not None
    assert manifest.fused.quality.kl <= 0.02
    assert manifest.quality.num_tokens >= 1000


@pytest.mark.parametrize("name", ["poems-zh", "translate-zh"])
def test_example_jobs_are_answered_in_chinese(name: str, tmp_path: Path) -> None:
    """Every answer is there, and most of its letters are Chinese ones."""
    pulled("gemma-3-270m")
    source = shutil.copy(JOBS / f"{name}.jsonl", tmp_path)
    outcome = CliRunner().invoke(aobatch, ["run", str(source)])
    assert outcome.exit_code == 0, outcome.output
    lines = (tmp_path / f"{name}.out.jsonl").read_text().splitlines()
    for line in lines:
        answer = json.loads(line)
        answer = answer.get("response", {}).get("body", answer)
        letters = [sign for sign in answer["choices"][0]["text"] if sign.isalpha()]
        assert letters
        assert sum("\u4e00" <= sign <= "\u9fff" for sign in letters) > 0.8 * len(letters)
    assert len(lines) == 6
