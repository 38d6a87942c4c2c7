"""Laws on the real default model: the reference's numbers, int8 close to them, rows independent."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy.special import log_softmax

from aobatch.executors.local import open_runner
from aobatch.kernels import Kernels
from aobatch.models.convert.quality import quality_chunks, quality_text
from aobatch.models.store.catalogue import ensure
from aobatch.models.store.folder import ModelFolder, open_folder
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import Chunk, ModelRunner, RunnerConfig
from aobatch.runners.scoring import score_texts

pytestmark = [pytest.mark.model, pytest.mark.xdist_group("model")]
Opened = Callable[..., ModelRunner]


@pytest.fixture(scope="session")
def folders() -> dict[str, ModelFolder]:
    """Give the default model in both precisions, fetched if it is not here."""
    return {
        precision: ensure(None, lambda *_: None, score_texts, precision)
        for precision in ("int8", "fp32")
    }


@pytest.fixture(scope="session")
def opened() -> Opened:
    """Give a function that opens each way to compute a model once; tests reserve their own."""

    @cache
    def opened(path: Path, kernels: Kernels = "stock", threads: int = 2) -> ModelRunner:
        return open_runner(open_folder(path), RunnerConfig(threads, kernels))

    return opened


@pytest.fixture(scope="session")
def golden(data: Path) -> list[dict[str, list[float]]]:
    """Give prompts with the reference's tokens, logprobs and margins."""
    return json.loads((data / "smollm2-135m-instruct.json").read_text())["cases"]


def test_prompts_have_the_references_tokens(
    folders: dict[str, ModelFolder], golden: list[dict[str, list[float]]]
) -> None:
    """The vocabulary out of the GGUF gives the reference's token ids."""
    tokenizer = load_tokenizer(folders["int8"])

    for case in golden:
        assert case["prompt_token_ids"] == tokenizer.encode(case["prompt"]).tolist()


def test_fp32_gives_the_references_logprobs(
    folders: dict[str, ModelFolder], opened: Opened, golden: list[dict[str, list[float]]]
) -> None:
    """Prompt logprobs are within 2e-3, greedy tokens equal wherever the margin exceeds 0.02."""
    runner = opened(folders["fp32"].path)
    runner.reserve(1, 1024, [])
    for case in golden:
        ids, completion = np.array(case["prompt_token_ids"]), case["completion_token_ids"]
        sequence = np.concatenate([ids, completion])
        logits = runner.prefill([Chunk(0, 0, sequence, len(sequence))])
        logprobs = log_softmax(logits, axis=1)
        found = logprobs[np.arange(len(ids) - 1), ids[1:]]
        np.testing.assert_allclose(case["prompt_logprobs"][1:], found, atol=2e-3)
        best = logits[len(ids) - 1 : -1].argmax(axis=1)
        is_clear = np.array(case["margin"]) > 0.02
        np.testing.assert_array_equal(np.array(completion)[is_clear], best[is_clear])


@pytest.mark.parametrize("step", [30, pytest.param(10, marks=pytest.mark.long)])
def test_int8_is_close_to_fp32(folders: dict[str, ModelFolder], step: int) -> None:
    """KL against fp32 is at most 0.015, as conversion measured and as measured here again."""
    quality, fused = folders["int8"].manifest.quality, folders["int8"].manifest.fused.quality
    chunks = quality_chunks(load_tokenizer(folders["int8"]))[::step]
    divergences = []
    for reference, found in zip(
        score_texts(folders["fp32"].path / "model.onnx", chunks),
        score_texts(folders["int8"].path / "model.onnx", chunks),
        strict=True,
    ):
        expected = log_softmax(reference.astype(np.float64), axis=1)
        distance = expected - log_softmax(found.astype(np.float64), axis=1)
        divergences.append((np.exp(expected) * distance).sum(axis=1))

    assert quality is not None
    assert fused is not None
    assert fused.kl <= 0.015
    assert quality.num_tokens >= 4000
    assert quality.kl <= 0.015
    assert np.concatenate(divergences).mean() <= 0.015


@pytest.mark.parametrize("num_tokens", [64, pytest.param(256, marks=pytest.mark.long)])
def test_an_int8_cache_stays_close_far_into_a_text(
    folders: dict[str, ModelFolder], opened: Opened, num_tokens: int
) -> None:
    """From token 1,024 on the KL against fp32 is at most 0.02."""
    tokens = load_tokenizer(folders["int8"]).encode(quality_text())[: 1024 + num_tokens]

    def logits(runner: ModelRunner) -> np.ndarray:
        runner.reserve(1, 1280, [])
        for start in range(0, 1024, 256):
            runner.prefill([Chunk(0, start, tokens[start : start + 256], 1)])
        return runner.prefill([Chunk(0, 1024, tokens[1024:], num_tokens)])

    reference = logits(opened(folders["fp32"].path)).astype(np.float64)
    computed = logits(opened(folders["int8"].path, "fused")).astype(np.float64)
    expected, found = log_softmax(reference, axis=1), log_softmax(computed, axis=1)

    assert (np.exp(expected) * (expected - found)).sum(axis=1).mean() <= 0.02


@pytest.mark.parametrize("kernels", ["stock", "fused"])
def test_prompts_may_be_cut_anywhere(
    folders: dict[str, ModelFolder], opened: Opened, kernels: Kernels
) -> None:
    """Chunks of two or more tokens leave the same bits as the whole prompt, as copies need."""
    tokens = np.random.default_rng(3).integers(17, 49152, 280)
    runner = opened(folders["int8"].path, kernels)
    runner.reserve(1, 512, [])

    def computed(*ends: int) -> list[np.ndarray]:
        starts = (0, *ends[:-1])
        for start, end in zip(starts, ends, strict=True):
            logits = runner.prefill([Chunk(0, start, tokens[start:end], 1)])
        # What a cache holds shows in the logits of a further token.
        following = runner.decode(tokens[:1], np.array([280]))
        return [logits[0].copy(), following[0].copy()]

    for expected, found in zip(computed(280), computed(2, 255, 257, 278, 280), strict=True):
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize(
    ("precision", "kernels"), [("int8", "stock"), ("int8", "fused"), ("fp32", "stock")]
)
def test_a_row_alone_is_the_row_in_a_batch(
    folders: dict[str, ModelFolder], opened: Opened, precision: str, kernels: Kernels
) -> None:
    """Alone, among 7 and among 64 ragged rows, at 1 and 2 threads: the same bits."""
    path = folders[precision].path
    tokens = np.random.default_rng(0).integers(17, 49152, (64, 20))

    def computed(rows: list[int], runner: ModelRunner) -> np.ndarray:
        runner.reserve(len(rows), 256, [])
        sizes = np.array([2 + row % 4 for row in rows])
        chunks = [Chunk(i, 0, tokens[row, : sizes[i]], 1) for i, row in enumerate(rows)]
        first = runner.prefill(chunks)[rows.index(5)].copy()
        second = runner.decode(tokens[rows, 19], sizes)[rows.index(5)].copy()
        return np.stack([first, second])

    alone = computed([5], opened(path, kernels))
    for rows in (range(1, 8), range(64)):
        np.testing.assert_array_equal(alone, computed([*rows], opened(path, kernels)))
    np.testing.assert_array_equal(alone, computed([*range(1, 8)], opened(path, kernels, 1)))


@pytest.mark.usefixtures("folders")
def test_a_model_that_is_here_is_found_without_the_runtime() -> None:
    """A finished job, which looks up its model and opens none, loads no numeric library."""
    look_up = (
        "import sys; from aobatch.executors.local import pull; pull(None, print); "
        "print({'numpy', 'onnx_ir', 'onnxruntime', 'tokenizers'} & {*sys.modules})"
    )
    found = subprocess.run([sys.executable, "-c", look_up], capture_output=True, check=True)

    assert found.stdout == b"set()\n"
