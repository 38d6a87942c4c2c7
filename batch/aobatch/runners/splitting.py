"""Whether prompts may be cut anywhere: tried on this processor, since kernels differ."""

import numpy as np

from aobatch.runners import Chunk, ModelRunner

_LENGTH = 48
_CUTS = (2, 13, 32, 46)


def splits_freely(runner: ModelRunner) -> bool:
    """Try whether a prompt gives the same logits, to the bit, whole and in two chunks.

    The runner's slots are used up. A chunk of one token is no part of the question: it takes
    another kernel.
    """
    runner.reserve(1, 2 * _LENGTH, [])
    token_ids = np.arange(1, _LENGTH + 1) % runner.vocab_size
    whole = runner.prefill([Chunk(0, 0, token_ids, 2)]).copy()
    return all(np.array_equal(whole, _in_two(runner, token_ids, cut)) for cut in _CUTS)


def _in_two(runner: ModelRunner, token_ids: np.ndarray, cut: int) -> np.ndarray:
    runner.prefill([Chunk(0, 0, token_ids[:cut], 0)])
    return runner.prefill([Chunk(0, cut, token_ids[cut:], 2)])
