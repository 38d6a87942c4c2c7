"""How fast a runner is on this machine: decode steps and prefill, in lanes as the engine's."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from aobatch.runners import Chunk, ModelRunner, in_lanes

BATCHES = (1, 16, 64, 128)
"""Rows of a measured decode step, over all lanes."""
PROMPTS = ((32, 16), (8, 64), (2, 256))
"""Prompts of a measured prefill, over all lanes, and tokens in each."""
CACHED_TOKENS = 64
_STEPS = 12
_PREFILLS = 4


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement."""

    phase: str
    """`decode` or `prefill`."""
    num_sequences: int
    num_tokens: int
    """New tokens of each sequence in one run."""
    seconds: float
    """Of one run of all lanes."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences over the seconds of a run."""
        return self.num_sequences * self.num_tokens / self.seconds


def decode_speed(runners: Sequence[ModelRunner], num_sequences: int) -> Speed:
    """Measure decode steps over 64 cached tokens."""
    lanes = runners[: min(len(runners), num_sequences)]
    rows = num_sequences // len(lanes)
    for runner in lanes:
        _fill(runner, rows)

    def work(lane: int) -> None:
        token_ids, lengths = np.full(rows, 17), np.full(rows, CACHED_TOKENS)
        for _ in range(_STEPS):
            lanes[lane].decode(token_ids, lengths)
            lengths += 1

    seconds = _timed(len(lanes), work) / _STEPS
    return Speed("decode", rows * len(lanes), 1, seconds)


def prefill_speed(runners: Sequence[ModelRunner], num_prompts: int, num_tokens: int) -> Speed:
    """Measure a prefill of prompts of equal length."""
    rows = num_prompts // len(runners)
    for runner in runners:
        runner.reserve(rows, 2 * num_tokens, [])

    def work(lane: int) -> None:
        ids = np.random.default_rng(lane).integers(0, runners[lane].vocab_size, num_tokens)
        for _ in range(_PREFILLS):
            runners[lane].prefill([Chunk(slot, 0, ids, 1) for slot in range(rows)])

    seconds = _timed(len(runners), work) / _PREFILLS
    return Speed("prefill", rows * len(runners), num_tokens, seconds)


def _fill(runner: ModelRunner, rows: int) -> None:
    """Put a prompt of 64 tokens into every slot."""
    runner.reserve(rows, 4 * CACHED_TOKENS, [])
    ids = np.random.default_rng(0).integers(0, runner.vocab_size, CACHED_TOKENS)
    runner.prefill([Chunk(0, 0, ids, 1)])
    for slot in range(1, rows):
        runner.copy(0, slot, CACHED_TOKENS)


def _timed(num_lanes: int, work: Callable[[int], None]) -> float:
    """Give the seconds of a second go; the first one takes memory and fills caches."""
    in_lanes(num_lanes, work)
    started = time.perf_counter()
    in_lanes(num_lanes, work)
    return time.perf_counter() - started
