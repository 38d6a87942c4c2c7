"""Whether a runner computes what a runner has to: usable numbers, and each row for itself."""

from collections.abc import Sequence

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.runners import Chunk, ModelRunner

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
