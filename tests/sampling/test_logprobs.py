"""Laws of the logprobs; float64 arithmetic and sorting in plain Python are the oracles."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sampling_reference import distribution, logprobs, processed, ranked
from sampling_strategies import VOCAB_SIZE, any_params, logit_rows, unhurried

from aobatch.arrays import Logits
from aobatch.sampling.blocks import Blocks
from aobatch.sampling.logprobs import score
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampled, Sampler

KEY = bytes(range(16))
NOTHING = np.array([], dtype=np.int64)


def sample(logits: Logits, params: SamplingParams, mode: str) -> Sampled:
    """Sample one token."""
    sampler = Sampler(1, logits.shape[1], mode)  # type: ignore[arg-type]
    sampler.admit(0, params, KEY, NOTHING)
    return sampler.sample(logits)


@unhurried
@given(logits=logit_rows(2), count=st.integers(0, 20))
def test_scores_agree_with_the_reference(logits: Logits, count: int) -> None:
    """The logprobs of a token and of the best ones are log-softmax, ordered, ties by id."""
    scores = score(Blocks(logits), np.array([5, 7]), np.array([count, 20]))

    for row, token in enumerate((5, 7)):
        expected = logprobs(logits[row].tolist())
        best = ranked(expected)[: (count, 20)[row]]
        assert scores.top_ids[row, : len(best)].tolist() == best
        top = scores.top_logprobs[row, : len(best)]
        np.testing.assert_allclose(top, np.array(expected)[best], rtol=0, atol=3e-7)
        np.testing.assert_allclose(scores.logprobs[row], expected[token], rtol=0, atol=3e-7)


@unhurried
@given(logits=logit_rows(1), params=any_params)
def test_raw_logprobs_ignore_all_parameters(logits: Logits, params: SamplingParams) -> None:
    """In raw mode the figures are those of the model's own distribution."""
    params = replace(params, num_logprobs=3)
    expected = logprobs(logits[0].tolist())

    sampled = sample(logits, params, "raw")

    token = sampled.token_ids[0]
    np.testing.assert_allclose(sampled.logprobs[0], expected[token], rtol=0, atol=3e-7)
    assert sampled.top_ids[0].tolist() == ranked(expected)[:3]


@unhurried
@given(logits=logit_rows(1), params=any_params)
def test_processed_logprobs_are_the_drawn_distributions(
    logits: Logits, params: SamplingParams
) -> None:
    """In processed mode they are the logs of the probabilities, -inf where removed."""
    params = replace(params, num_logprobs=9)
    values = processed(logits[0].tolist(), params)
    assume(max(values) > -math.inf)
    expected, margin = distribution(values, params)
    assume(margin > 1e-6)

    sampled = sample(logits, params, "processed")

    token = sampled.token_ids[0]
    np.testing.assert_allclose(np.exp(sampled.logprobs[0]), expected[token], rtol=1e-4)
    listed = np.isfinite(sampled.top_logprobs[0])
    assert listed.sum() >= min(9, np.count_nonzero(expected))
    tops = np.array(expected)[sampled.top_ids[0][listed]]
    found = sampled.top_logprobs[0][listed]
    np.testing.assert_allclose(np.exp(found), tops, rtol=1e-4, atol=1e-7)
    assert ((tops > 0) | (found < -80)).all()
    assert (np.diff(found) <= 0).all()


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        pytest.param(SamplingParams(top_k=2), [2, 3], id="top_k"),
        pytest.param(SamplingParams(top_p=0.6), [2], id="top_p"),
        pytest.param(SamplingParams(min_p=0.01), [2, 3, 4, 1], id="min_p"),
        pytest.param(SamplingParams(logit_bias=((2, -np.inf),)), [3, 4, 1, 0], id="logits"),
        pytest.param(SamplingParams(0.0, min_tokens=1, end_token_ids=(2,)), [3, 4, 1, 0], id="ban"),
    ],
)
def test_tokens_that_cannot_be_drawn_are_not_listed(params: SamplingParams, ids: list[int]) -> None:
    """Where fewer tokens are left than asked for, these alone have a logprob."""
    logits = np.float32([[0.0, 1.0, 5.0, 4.0, 2.0]])

    sampled = sample(logits, replace(params, num_logprobs=5), "processed")

    assert sampled.top_ids[0][np.isfinite(sampled.top_logprobs[0])].tolist() == ids


@pytest.mark.parametrize("num_logprobs", [0, 1, 5])
def test_k_is_the_most_that_a_row_asks_for(num_logprobs: int) -> None:
    """The width of the arrays follows the largest request, and others have NaN."""
    sampler = Sampler(3, VOCAB_SIZE)
    logits = np.random.default_rng(0).normal(size=(3, VOCAB_SIZE)).astype(np.float32)
    sampler.admit(0, SamplingParams(), KEY, NOTHING)
    sampler.admit(1, SamplingParams(num_logprobs=num_logprobs), KEY, NOTHING)
    sampler.admit(2, SamplingParams(num_logprobs=0), KEY, NOTHING)

    sampled = sampler.sample(logits)

    assert sampled.top_ids.shape == sampled.top_logprobs.shape == (3, num_logprobs)
    assert np.isnan(sampled.logprobs).tolist() == [True, False, False]


def test_more_logprobs_than_tokens_give_all_tokens() -> None:
    """A vocabulary smaller than the request is listed whole."""
    sampled = sample(np.float32([[1.0, 3.0, 2.0]]), SamplingParams(num_logprobs=20), "raw")

    assert sampled.top_ids.tolist() == [[1, 2, 0]]


def test_ties_among_the_best_follow_the_ids_in_a_large_vocabulary() -> None:
    """Equal logits are listed by id however many there are."""
    logits = np.zeros((1, 5000), dtype=np.float32)
    logits[0, 4000] = 1.0

    sampled = sample(logits, SamplingParams(num_logprobs=4), "raw")

    assert sampled.top_ids[0].tolist() == [4000, 0, 1, 2]


def test_large_vocabulary_keeps_its_precision() -> None:
    """Over 49,152 logits the figure is within 1e-7 of float64 arithmetic."""
    logits = np.random.default_rng(4).normal(0, 3, (1, 49_152)).astype(np.float32)
    expected = logprobs(logits[0].tolist())

    sampled = sample(logits, SamplingParams(num_logprobs=0), "raw")

    assert abs(sampled.logprobs[0] - expected[sampled.token_ids[0]]) < 1e-7
