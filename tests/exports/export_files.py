"""Exported folders for tests, as other tools leave them, and what is known of them."""

import logging
import shutil
from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

from aobatch.executors.local import open_runner
from aobatch.models.foreign import open_export
from aobatch.runners import Chunk, ModelRunner, RunnerConfig

DATA = Path(__file__).parents[1] / "data"
EXPORTS = (
    "llama-optimum",
    "qwen3-optimum",
    "mistral-optimum",
    "llama-genai",
    "qwen2-genai",
    "gemma3-genai",
)
"""Those in full precision, by family and tool."""
CAPACITY = 128


def exported(name: str, folder: Path) -> Path:
    """Lay out an export as its tool leaves it; NAME-int8 and NAME-q4 are quantised here."""
    kind = next((kind for kind in QUANTISED if name.endswith(f"-{kind}")), "")
    shutil.copytree(DATA / "exported" / name.removesuffix(f"-{kind}"), folder)
    shutil.copy(DATA / "tiny-llama/tokenizer.json", folder)
    if kind:
        QUANTISED[kind](folder / "model.onnx")
    return folder


def _quantise_int8(graph: Path) -> None:
    """Multiply in 8-bit integers, under one scale for all that a product is given."""
    logging.disable(logging.WARNING)  # advice to prepare the graph
    quantize_dynamic(graph, graph, weight_type=QuantType.QInt8)
    logging.disable(logging.NOTSET)


def _quantise_q4(graph: Path) -> None:
    """Keep weights in blocks of 4 bits, as repositories for browsers have them."""
    quantizer = MatMulNBitsQuantizer(onnx.load(graph), block_size=32, is_symmetric=True)
    quantizer.process()
    quantizer.model.save_model_to_file(str(graph))


QUANTISED = {"int8": _quantise_int8, "q4": _quantise_q4}


def reference(name: str) -> dict[str, np.ndarray]:
    """Give the reference numbers of an export's family."""
    family, _, _ = name.partition("-")
    return dict(np.load(DATA / f"tiny-{family}/expected.npz"))


def runner_of(path: Path, threads: int = 1) -> ModelRunner:
    """Open the runner of an export."""
    return open_runner(open_export(path), RunnerConfig(threads))


def greedy(runner: ModelRunner, prompts: list[np.ndarray], count: int) -> list[list[int]]:
    """Complete prompts of different lengths side by side, one greedy token after the other."""
    runner.reserve(len(prompts), CAPACITY, [])
    lengths = np.array([len(prompt) for prompt in prompts])
    logits = runner.prefill([Chunk(slot, 0, prompt, 1) for slot, prompt in enumerate(prompts)])
    found = [logits.argmax(axis=1)]
    while len(found) < count:
        logits = runner.decode(found[-1], lengths)
        lengths += 1
        found.append(logits.argmax(axis=1))
    return np.stack(found, axis=1).tolist()
