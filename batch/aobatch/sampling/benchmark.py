"""How long the sampler takes for a step, on logits shaped like a real model's."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from aobatch.arrays import Logits
from aobatch.sampling.draw import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

ROWS, VOCAB_SIZE = 64, 49_152
_REPEATS = 15

CASES: Mapping[str, SamplingParams] = {
    "greedy": SamplingParams(temperature=0.0),
    "temperature": SamplingParams(),
    "temperature, top_p": SamplingParams(top_p=0.95),
    "temperature, top_k": SamplingParams(temperature=0.8, top_k=40),
    "temperature, top_p, penalties, 5 logprobs": SamplingParams(
        temperature=0.8,
        top_p=0.95,
        presence_penalty=0.5,
        frequency_penalty=0.5,
        num_logprobs=5,
    ),
}
"""What every row of a measured step asks for."""


@dataclass(frozen=True, slots=True)
class SamplerSpeed:
    """One measurement."""

    case: str
    seconds: float
    """Median of a step over 64 rows of 49,152 logits."""


def benchmark_sampler() -> Iterator[SamplerSpeed]:
    """Measure a step of each case."""
    logits = _peaked_logits(np.random.default_rng(0))
    for case, params in CASES.items():
        sampler = Sampler(ROWS, VOCAB_SIZE)
        for slot in range(ROWS):
            sampler.admit(slot, params, stream_key(slot), np.arange(20))
        seconds = []
        for _ in range(_REPEATS):
            started = time.perf_counter()
            sampler.sample(logits)
            seconds.append(time.perf_counter() - started)
        yield SamplerSpeed(case, float(np.median(seconds)))


def _peaked_logits(generator: np.random.Generator) -> Logits:
    """Make logits [64, 49152]: a broad background and a few likely tokens in each row."""
    logits = 2 * generator.standard_normal((ROWS, VOCAB_SIZE), np.float32)
    peaks = generator.integers(0, VOCAB_SIZE, (ROWS, 30))
    heights = 16 - 2.5 * np.log1p(np.arange(30, dtype=np.float32))
    np.put_along_axis(logits, peaks, heights[None].repeat(ROWS, axis=0), axis=1)
    return logits
