"""Laws of the self-test: it finds rows that feel each other, and numbers that are none."""

from collections.abc import Sequence

import numpy as np
import pytest

from aobatch.arrays import Logits, TokenIds
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import Chunk
from aobatch.runners.onnx import OnnxRunner
from aobatch.runners.scoring import self_test


class BrokenRunner(OnnxRunner):
    """A runner that does one thing wrong."""

    fault = ""

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Compute, and let the longest prompt of a batch shift the others by one bit."""
        logits = super().prefill(chunks)
        if self.fault == "feels the batch" and len(chunks) > 1:
            logits[0] = np.nextafter(logits[0], np.float32(np.inf))
        return logits

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Compute, and lose a number on the way."""
        logits = super().decode(token_ids, lengths)
        if self.fault == "overflows":
            logits[-1, 7] = np.inf
        if self.fault == "feels its neighbours" and len(token_ids) > 1:
            logits[-1] = np.nextafter(logits[-1], np.float32(np.inf))
        return logits


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("", ""),
        ("feels the batch", "a prompt of 1 tokens has other scores in a batch"),
        ("feels its neighbours", "a prompt of 9 tokens has other scores in a batch"),
        ("overflows", "the model computes NaN or infinity"),
    ],
)
def test_faults_are_found(tiny_int8: ModelFolder, fault: str, expected: str) -> None:
    """One bit of difference is one too many."""
    runner = BrokenRunner(tiny_int8.graph, 1)
    runner.fault = fault

    assert self_test(runner)[0] == expected
