"""Logits of whole texts, by which conversions are measured, and the self-test of a runner."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.models.convert.graph import Stage, StagedDecoder
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.cached import Arrays, Binding
from aobatch.runners.fused import FusedRunner
from aobatch.runners.onnx import OnnxRunner, inputs_of_chunks
from aobatch.runners.session import SLEEPING, UNPACKED, Session, open_session


class TextScorer:
    """Runs a decoder graph over texts, each from its beginning."""

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield all logits of each text, [N, V], in pieces if there are many."""
        yield from _logits(_runner(graph, texts), texts)

    def reference(self, decoder: StagedDecoder, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the same of a decoder in full precision, one layer of which is in memory."""
        yield from _staged_logits(decoder, texts)

    def unpacked(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
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
    for text in texts:
        for start, end in _pieces(len(text), runner.vocab_size):
            yield runner.prefill([Chunk(0, start, text[start:end], end - start)])


def _pieces(length: int, vocab_size: int) -> Iterator[tuple[int, int]]:
    """Cut a text where its logits would be too many at a time."""
    step = max(2, _MAX_LOGITS // vocab_size)
    # A single token at the end would take another kernel; it stays with those before.
    starts = [start for start in range(0, length, step) if start + 1 < length] or [0]
    yield from zip(starts, [*starts[1:], length], strict=True)


_TOGETHER = 1024
"""Tokens that a layer computes in one run, unless a text alone has more."""


def _staged_logits(decoder: StagedDecoder, texts: Sequence[TokenIds]) -> Iterator[Logits]:
    """Take all texts through one layer after the other, then each through the head."""
    count = max(1, _TOGETHER // max(map(len, texts)))
    groups = [texts[i : i + count] for i in range(0, len(texts), count)]
    states: list[Arrays] = [{"residual": decoder.embed(np.concatenate(group))} for group in groups]
    for index, stage in enumerate(decoder.layers()):
        layer = _Layer(stage, index, decoder)
        states = [layer.run(group, state) for group, state in zip(groups, states, strict=True)]
    rows = np.concatenate([state["normed"] for state in states])
    head, vocab_size = decoder.head(), decoder.checkpoint.spec.vocab_size
    session = _open(head)
    for text in texts:
        for start, end in _pieces(len(text), vocab_size):
            logits = np.empty((end - start, vocab_size), np.float32)
            inputs = {"normed": rows[start:end], **head.weights}
            session.run_with_iobinding(Binding(session, inputs, {"logits": logits}).io)
            yield logits
        rows = rows[len(text) :]


class _Layer:
    """One layer of a staged decoder, opened."""

    def __init__(self, stage: Stage, index: int, decoder: StagedDecoder) -> None:
        self._stage, self._index, self._spec = stage, index, decoder.checkpoint.spec
        self._session = _open(stage)
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._outputs = [made.name for made in self._session.get_outputs()]

    def run(self, texts: Sequence[TokenIds], state: Arrays) -> Arrays:
        """Compute the state [N, hidden] of texts behind this layer from that before it."""
        length, spec = max(map(len, texts)), self._spec
        chunks = [Chunk(slot, 0, text, 0) for slot, text in enumerate(texts)]
        cache = np.zeros((len(texts), spec.num_kv_heads, length, spec.head_dim), np.float32)
        parts = {part: cache.copy() for part in ("key", "value")}
        given = {**inputs_of_chunks(chunks, length), **state, **self._stage.weights}
        given |= {f"past.{self._index}.{part}": array for part, array in parts.items()}
        made = {f"present.{self._index}.{part}": array for part, array in parts.items()}
        states = [name for name in self._outputs if name not in made]
        made |= {name: np.empty_like(state["residual"]) for name in states}
        inputs = {name: array for name, array in given.items() if name in self._inputs}
        self._session.run_with_iobinding(Binding(self._session, inputs, made).io)
        return {name.removeprefix("next_"): made[name] for name in states}


def _open(stage: Stage) -> Session:
    return open_session(stage.graph, os.cpu_count() or 1, (SLEEPING,))


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
