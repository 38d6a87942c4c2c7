"""Thousands of draws of each kind against the reference's distribution, with fixed seeds."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sampling_reference import distribution, processed
from scipy.stats import chisquare

from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

NUM_DRAWS = [4_000, pytest.param(20_000, marks=pytest.mark.long)]
NUM_SLOTS = 1000
VOCAB_SIZE = 203
PROMPT = np.arange(0, 20)


def p_value(tokens: NDArray[np.int64], probabilities: NDArray[np.float64]) -> float:
    """Test drawn tokens against probabilities, rare tokens taken together in id order."""
    assert probabilities[np.unique(tokens)].all(), "a token of probability 0 was drawn"
    expected = probabilities * len(tokens)
    groups = np.minimum(np.cumsum(expected) // 20, len(tokens) // 20 - 1).astype(int)
    observed = np.bincount(groups, np.bincount(tokens, minlength=len(expected)))
    sums = np.bincount(groups, expected)
    used = sums > 1
    return float(
        chisquare(observed[used], sums[used] * (observed[used].sum() / sums[used].sum()))[1]
    )


def draws(
    logits: NDArray[np.float32], params: SamplingParams, history: int, num_draws: int
) -> NDArray[np.int64]:
    """Draw second tokens of sequences whose first one was forced."""
    first = np.full((NUM_SLOTS, len(logits)), -np.inf, dtype=np.float32)
    first[:, history] = 1.0
    second = np.tile(logits, (NUM_SLOTS, 1))
    sampler = Sampler(NUM_SLOTS, len(logits))
    tokens = []
    for part in range(num_draws // NUM_SLOTS):
        for slot in range(NUM_SLOTS):
            sampler.admit(slot, params, stream_key(part, slot), PROMPT)
        sampler.sample(first)
        tokens.append(sampler.sample(second).token_ids)
    return np.concatenate(tokens)


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
@pytest.mark.parametrize(
    "params",
    [
        pytest.param(SamplingParams(), id="plain"),
        pytest.param(SamplingParams(temperature=0.6), id="cool"),
        pytest.param(SamplingParams(temperature=1.8), id="warm"),
        pytest.param(SamplingParams(top_p=0.8), id="top_p"),
        pytest.param(SamplingParams(top_k=12), id="top_k"),
        pytest.param(SamplingParams(min_p=0.1), id="min_p"),
        pytest.param(SamplingParams(repetition_penalty=1.5), id="repetition"),
        pytest.param(SamplingParams(presence_penalty=1.5, frequency_penalty=0.5), id="penalties"),
        pytest.param(SamplingParams(logit_bias=((3, 2.0), (5, -100.0))), id="bias"),
        pytest.param(
            SamplingParams(0.9, 0.9, 30, 0.01, 0.5, 0.5, 1.1, ((7, 1.0),)), id="everything"
        ),
    ],
)
def test_draws_follow_the_distribution(params: SamplingParams, num_draws: int) -> None:
    """The counts of independent draws fit the reference's probabilities."""
    logits = np.random.default_rng(1).normal(0, 1.5, VOCAB_SIZE).astype(np.float32)
    history = int(logits.argmax())
    values = processed(logits.tolist(), params, PROMPT.tolist(), [history])
    probabilities, _ = distribution(values, params)

    assert p_value(draws(logits, params, history, num_draws), np.array(probabilities)) > 0.001


@pytest.mark.parametrize("num_draws", [2_000, *NUM_DRAWS[1:]])
@pytest.mark.parametrize("top_p", [1.0, 0.97])
def test_draws_follow_the_distribution_of_a_large_vocabulary(top_p: float, num_draws: int) -> None:
    """Successive numbers of 50 streams over 49,152 tokens fit too, filtered and not."""
    row = np.random.default_rng(6).normal(0, 3, 49_152).astype(np.float32)
    logits = np.tile(row, (50, 1))
    sampler = Sampler(*logits.shape)
    for slot in range(50):
        sampler.admit(slot, SamplingParams(top_p=top_p), stream_key("large", slot), PROMPT)
    tokens = np.concatenate([sampler.sample(logits).token_ids for _ in range(num_draws // 50)])

    probabilities, _ = distribution(row.tolist(), SamplingParams(top_p=top_p))

    assert p_value(tokens, np.array(probabilities)) > 0.001


@pytest.mark.parametrize("num_draws", NUM_DRAWS)
def test_draws_follow_a_long_nucleus(num_draws: int) -> None:
    """So they do where thousands of tokens are left, most of them summed up and not listed."""
    row = np.random.default_rng(7).normal(0, 0.3, 6000).astype(np.float32)
    logits, params = np.tile(row, (50, 1)), SamplingParams(top_p=0.95)
    sampler = Sampler(*logits.shape)
    for slot in range(50):
        sampler.admit(slot, params, stream_key("long", slot), PROMPT)
    tokens = np.concatenate([sampler.sample(logits).token_ids for _ in range(num_draws // 50)])

    probabilities, _ = distribution(row.tolist(), params)

    assert p_value(tokens, np.array(probabilities)) > 0.001


def test_chi_square_rejects_a_wrong_distribution() -> None:
    """The test can fail: draws at temperature 1 do not fit temperature 1.1."""
    logits = np.random.default_rng(50).normal(0, 1.5, 50).astype(np.float32)
    wrong, _ = distribution(logits.tolist(), SamplingParams(temperature=1.1))

    assert p_value(draws(logits, SamplingParams(), 0, 4_000), np.array(wrong)) < 0.001
