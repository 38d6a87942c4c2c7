"""Logits of whole texts, one after the other: what conversion measures quality with."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner


class TextScorer:
    """Runs a decoder graph over texts, each from its beginning."""

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield all logits of each text, [N, V]."""
        runner = _runner(graph, texts)
        for text in texts:
            yield runner.prefill([Chunk(0, 0, text, len(text))])

    def caches(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Mapping[str, Floats]]:
        """Yield the keys and values of each text by name, [kv_heads, N, head_dim]."""
        runner = _runner(graph, texts)
        for text in texts:
            runner.prefill([Chunk(0, 0, text, 1)])
            yield runner.keys_and_values(0, len(text))


score_texts = TextScorer()


def _runner(graph: Path, texts: Sequence[TokenIds]) -> OnnxRunner:
    runner = OnnxRunner(graph, os.cpu_count() or 1)
    runner.reserve(1, max(map(len, texts)), [])
    return runner
