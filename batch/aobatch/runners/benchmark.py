"""How fast a runner is on this machine: decode steps and prefill."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from aobatch.runners import Chunk, ModelRunner

BATCHES = (1, 16, 64, 128)
"""Rows of a measured decode step."""
PROMPTS = ((16, 16), (4, 64), (1, 256))
"""Prompts of a measured prefill, and tokens in each."""
CACHED_TOKENS = 64
_REPEATS = 12


@dataclass(frozen=True, slots=True)
class Speed:
    """One measurement."""

    phase: str
    """`decode` or `prefill`."""
    num_sequences: int
    num_tokens: int
    """New tokens of each sequence in one run."""
    seconds: float
    """Median of the runs."""

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all sequences over the seconds of a run."""
        return self.num_sequences * self.num_tokens / self.seconds


def benchmark(runner: ModelRunner) -> Iterator[Speed]:
    """Measure decode steps over 64 cached tokens at several batch sizes, then prefill."""
    generator = np.random.default_rng(0)
    for batch in BATCHES:
        yield _decode_speed(runner, generator, batch)
    for prompts, length in PROMPTS:
        yield _prefill_speed(runner, generator, prompts, length)


def _decode_speed(runner: ModelRunner, generator: np.random.Generator, batch: int) -> Speed:
    runner.reserve(batch, 256, [])
    for slot in range(batch):
        ids = generator.integers(0, runner.vocab_size, CACHED_TOKENS)
        runner.prefill([Chunk(slot, 0, ids, 1)])
    lengths, seconds = np.full(batch, CACHED_TOKENS), []
    for _ in range(_REPEATS):
        ids = generator.integers(0, runner.vocab_size, batch)
        started = time.perf_counter()
        runner.decode(ids, lengths)
        seconds.append(time.perf_counter() - started)
        lengths += 1
    return Speed("decode", batch, 1, float(np.median(seconds)))


def _prefill_speed(
    runner: ModelRunner, generator: np.random.Generator, prompts: int, length: int
) -> Speed:
    runner.reserve(prompts, 256, [])
    seconds = []
    for _ in range(_REPEATS // 2):
        ids = generator.integers(0, runner.vocab_size, (prompts, length))
        chunks = [Chunk(slot, 0, ids[slot], 1) for slot in range(prompts)]
        started = time.perf_counter()
        runner.prefill(chunks)
        seconds.append(time.perf_counter() - started)
    return Speed("prefill", prompts, length, float(np.median(seconds)))
