"""Logits of whole texts, one after the other: what conversion measures quality with."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.runners import Chunk
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

    def caches(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Mapping[str, Floats]]:
        """Yield the keys and values of each text by name, [kv_heads, N, head_dim]."""
        runner = _runner(graph, texts)
        for text in texts:
            runner.prefill([Chunk(0, 0, text, 1)])
            yield runner.keys_and_values(0, len(text))


score_texts = TextScorer()
_MAX_LOGITS = 2**24


def _logits(runner: OnnxRunner, texts: Sequence[TokenIds]) -> Iterator[Logits]:
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
