"""Logits of whole texts, by which conversions are measured, and the self-test of a runner."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.fused import FusedRunner
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.session import SLEEPING, UNPACKED


class TextScorer:
    """Runs a decoder graph over texts, each from its beginning."""

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield all logits of each text, [N, V], in pieces if there are many."""
        yield from _logits(_runner(graph, texts), texts)

    def reference(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the same of a float32 graph, whose weights are not packed into memory."""
        yield from _logits(_runner(graph, texts, UNPACKED), texts)

    def fused(self, graph: Path, sizes: GraphSizes, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Give the same of a graph over fused operators; KernelsError if they cannot be had."""
        runner = FusedRunner(graph, os.cpu_count() or 1, sizes, "int8", entries=(SLEEPING,))
        runner.reserve(1, max(map(len, texts)), [])
        return _logits(runner, texts)


score_texts = TextScorer()
_MAX_LOGITS = 2**24


def _logits(runner: ModelRunner, texts: Sequence[TokenIds]) -> Iterator[Logits]:
    step = max(2, _MAX_LOGITS // runner.vocab_size)
    for text in texts:
        # A single token at the end would take another kernel; it stays with those before.
        starts = [start for start in range(0, len(text), step) if start + 1 < len(text)] or [0]
        for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
            yield runner.prefill([Chunk(0, start, text[start:end], end - start)])


def _runner(graph: Path, texts: Sequence[TokenIds], *entries: tuple[str, str]) -> OnnxRunner:
    # Two conversions side by side would otherwise take longer than one after the other.
    runner = OnnxRunner(graph, os.cpu_count() or 1, entries=(SLEEPING, *entries))
    runner.reserve(1, max(map(len, texts)), [])
    return runner


_LENGTHS = (1, 17, 5, 33, 2, 9)
_NUM_STEPS = 3
_CAPACITY = 64


def self_test(runner: ModelRunner) -> tuple[str, str]:
    """Say what is wrong, empty if nothing is, and what was compared; the slots are used up."""
    prompts = [_prompt(row, length, runner.vocab_size) for row, length in enumerate(_LENGTHS)]
    together = _scores(runner, prompts)
    compared = f"{len(prompts)} prompts of 1 to {max(_LENGTHS)} tokens, {_NUM_STEPS} steps each"
    if not np.isfinite(together).all():
        return "the model computes NaN or infinity", compared
    for row, prompt in enumerate(prompts):
        if not np.array_equal(_scores(runner, [prompt])[0], together[row]):
            return f"a prompt of {len(prompt)} tokens has other scores in a batch", compared
    return "", compared


def _scores(runner: ModelRunner, prompts: Sequence[TokenIds]) -> Logits:
    """Compute prompts and greedy steps behind them; all scores, [prompts, 1 + steps, V]."""
    runner.reserve(len(prompts), _CAPACITY, [])
    found = [runner.prefill([Chunk(i, 0, p, 1) for i, p in enumerate(prompts)]).copy()]
    lengths = np.array([len(prompt) for prompt in prompts])
    for step in range(_NUM_STEPS):
        found.append(runner.decode(found[-1].argmax(axis=1), lengths + step).copy())
    return np.stack(found, axis=1)


def _prompt(row: int, length: int, vocab_size: int) -> TokenIds:
    return np.random.default_rng(row).integers(0, vocab_size, length)
