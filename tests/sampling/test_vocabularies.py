"""Laws that hold in vocabularies of any size; float64, sorted whole, is the oracle."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sampling_strategies import seeds, unhurried
from scipy.special import logsumexp, softmax

from aobatch.arrays import Logits
from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

EXAMPLES = [12, pytest.param(400, marks=pytest.mark.long)]
SIZES = [1, 2, 255, 256, 257, 3000, 30_011, 65_536, 300_000]
NOTHING = np.array([], dtype=np.int64)


@st.composite
def rows(draw: st.DrawFn) -> Logits:
    """Draw the logits of one row: smooth, tied, with impossible tokens, flat or with a peak."""
    vocab_size = draw(st.sampled_from(SIZES))
    random = np.random.default_rng(draw(seeds))
    logits = random.normal(0, draw(st.sampled_from([0.05, 1.0, 4.0])), vocab_size)
    if draw(st.booleans()):
        logits = np.round(logits, draw(st.integers(0, 2)))
    if draw(st.booleans()):
        logits[random.random(vocab_size) < draw(st.sampled_from([0.1, 0.999]))] = -np.inf
    if draw(st.booleans()):
        logits[random.integers(vocab_size)] = 9.0
    assume(np.isfinite(logits).any())
    return logits.astype(np.float32)


params = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_p=st.sampled_from([0.0, 0.4, 0.95, 0.9999, 1.0, 1.0]),
    top_k=st.sampled_from([0, 0, 0, 1, 40, 3000]),
    min_p=st.sampled_from([0.0, 0.0, 0.0, 0.02, 0.5]),
    num_logprobs=st.integers(0, 7),
)


def expected_probabilities(
    values: NDArray[np.float64], wanted: SamplingParams
) -> tuple[NDArray[np.float64], float]:
    """Give the probabilities [V] of a draw, and how clear the filters' case is."""
    order = np.lexsort((np.arange(len(values)), -values))
    if wanted.is_greedy:
        return softmax(values), 1.0
    masses = softmax(values[order] / wanted.temperature)
    count, margin = len(values), 1.0
    if wanted.top_k > 0:
        count = min(count, wanted.top_k)
    if wanted.top_p < 1:
        sums = np.cumsum(masses[:count]) / masses[:count].sum()
        margin = float(np.abs(sums - wanted.top_p).min())
        count = 1 + int(np.count_nonzero(sums[:-1] < wanted.top_p))
    if wanted.min_p > 0:
        ratios = masses[:count] / masses[0]
        margin = min(margin, float(np.abs(ratios[ratios < 1] - wanted.min_p).min(initial=1.0)))
        count = max(1, int(np.count_nonzero(ratios >= wanted.min_p)))
    masses[count:] = 0.0
    found = np.zeros_like(masses)
    found[order] = masses / masses.sum()
    return found, margin


@pytest.mark.parametrize("num_examples", EXAMPLES)
@pytest.mark.parametrize("edits", ["none", "every block"])
def test_any_vocabulary_agrees_with_float64(num_examples: int, edits: str) -> None:
    """The token, its processed logprob and the best ones are float64's, edited or not."""

    @settings(unhurried, max_examples=num_examples, database=None)
    @given(logits=rows(), wanted=params, seed=seeds)
    def check(logits: Logits, wanted: SamplingParams, seed: int) -> None:
        size, bias = len(logits), ()
        if edits == "every block":
            ids = np.unique(np.append(np.arange(0, size, max(256, size // 1000)), size - 1))
            bias = tuple((int(token), float(token % 7) - 3) for token in ids)
        values = logits.astype(np.float64)
        for token, change in bias:
            values[token] += change
        # What a temperature of 0.3 tells apart is rounded to float32 before.
        probabilities, margin = expected_probabilities(
            values.astype(np.float32).astype(np.float64), wanted
        )
        assume(margin > 1e-5)
        wanted = SamplingParams(
            wanted.temperature,
            wanted.top_p,
            wanted.top_k,
            wanted.min_p,
            logit_bias=bias,
            num_logprobs=wanted.num_logprobs,
        )
        sampler = Sampler(1, size, "processed")
        sampler.admit(0, wanted, stream_key(seed), NOTHING)
        sampled = sampler.sample(logits[None].copy())

        token = sampled.token_ids[0]
        assert probabilities[token] > 0
        assert abs(sampled.logprobs[0] - np.log(probabilities[token])) < 2e-5
        best = np.lexsort((np.arange(size), -probabilities))[: wanted.num_logprobs or 0]
        best = best[probabilities[best] > 0]
        listed = np.isfinite(sampled.top_logprobs[0])
        assert sampled.top_ids[0][listed][: len(best)].tolist() == best.tolist()

    check()


@pytest.mark.parametrize("size", [257, 49_152, 262_144])
def test_raw_logprobs_are_those_of_float64(size: int) -> None:
    """Whatever a draw or an edit saw, the figures are those of the model's own logits."""
    random = np.random.default_rng(size)
    logits = random.normal(0, 3, (4, size)).astype(np.float32)
    sampler = Sampler(4, size)
    ways = [
        SamplingParams(0.0, num_logprobs=3),
        SamplingParams(1.0, num_logprobs=3),
        SamplingParams(0.6, num_logprobs=3),
        SamplingParams(num_logprobs=3, logit_bias=((5, 50.0), (200, -3.0))),
    ]
    for slot, wanted in enumerate(ways):
        sampler.admit(slot, wanted, stream_key(slot), NOTHING)
    sampled = sampler.sample(logits)

    expected = logits - logsumexp(logits.astype(np.float64), axis=1, keepdims=True)
    every = np.arange(4)
    assert np.abs(sampled.logprobs - expected[every, sampled.token_ids]).max() < 1e-7
    best = np.argsort(-expected, axis=1)[:, :3]
    np.testing.assert_array_equal(sampled.top_ids, best)
    found = np.take_along_axis(expected, best, axis=1)
    np.testing.assert_allclose(sampled.top_logprobs, found, rtol=0, atol=1e-7)


def test_a_step_takes_little_memory_beyond_its_logits() -> None:
    """Of 64 rows of 262,144 logits, 64 MB, a step copies 8 MB at most at a time."""
    random = np.random.default_rng(3)
    logits = random.standard_normal((64, 262_144), np.float32)
    logits[::2, ::5000] += 9  # every other row has few likely tokens, the rest has thousands
    sampler = Sampler(64, 262_144)
    for slot in range(64):
        wanted = SamplingParams(top_p=0.95, frequency_penalty=0.5, num_logprobs=5)
        sampler.admit(slot, wanted, stream_key(slot), NOTHING)
    tracemalloc.start()
    sampler.sample(logits)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert peak < 8 * 2**20
