"""Logits of whole texts, one after the other: what conversion measures quality with."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from aobatch.arrays import Logits, TokenIds
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner


def score_texts(graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
    """Run a decoder graph over texts, each from its beginning; yield all logits [N, V]."""
    runner = OnnxRunner(graph, os.cpu_count() or 1)
    runner.reserve(1, max(map(len, texts)), [])
    for text in texts:
        yield runner.prefill([Chunk(0, 0, text, len(text))])
