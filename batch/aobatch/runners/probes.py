"""Whether a runner computes what a runner has to: usable numbers, and each row for itself."""

import platform
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.runners import Chunk, ModelRunner

CPUINFO = Path("/proc/cpuinfo")

RELEVANT_FEATURES = (
    "avx2",
    "avx_vnni",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "asimddp",
    "i8mm",
)
"""Those that make 8-bit products fast, of x86 and of Arm."""


def processor_name() -> str:
    """Name the processor."""
    fields = _fields()
    return fields.get("model name") or platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """Give the relevant features that it has."""
    fields = _fields()
    flags = set(f"{fields.get('flags', '')} {fields.get('Features', '')}".split())
    return [name for name in RELEVANT_FEATURES if name in flags]


@cache
def _fields() -> dict[str, str]:
    try:
        first, _, _ = CPUINFO.read_text(encoding="utf-8", errors="replace").partition("\n\n")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


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
