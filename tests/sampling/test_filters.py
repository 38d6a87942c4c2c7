"""Laws of temperature, top_k, top_p and min_p; transformers and sorting are the oracles."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from numpy.typing import ArrayLike, NDArray
from sampling_reference import distribution, processed
from sampling_strategies import any_params, logit_rows, unhurried
from scipy.special import softmax

from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler


def probabilities(logits: ArrayLike, params: SamplingParams) -> NDArray[np.float64]:
    """Give the probabilities [B, V] that the sampler draws from."""
    rows = np.atleast_2d(np.array(logits, dtype=np.float32))
    params = replace(params, num_logprobs=rows.shape[1])
    sampler = Sampler(*rows.shape, "processed")
    for slot in range(len(rows)):
        sampler.admit(slot, params, bytes(16), np.array([], dtype=np.int64))
    sampled = sampler.sample(rows)
    found = np.zeros(rows.shape)
    places, ranks = np.nonzero(np.isfinite(sampled.top_logprobs))
    found[places, sampled.top_ids[places, ranks]] = np.exp(sampled.top_logprobs[places, ranks])
    return found


def kept(logits: ArrayLike, params: SamplingParams) -> list[int]:
    """Give the ids of one row that can be drawn."""
    return np.flatnonzero(probabilities(logits, params)[0]).tolist()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("temperature_0.3", SamplingParams(temperature=0.3)),
        ("temperature_0.7", SamplingParams(temperature=0.7)),
        ("temperature_1.5", SamplingParams(temperature=1.5)),
        ("top_p_0.1", SamplingParams(top_p=0.1)),
        ("top_p_0.5", SamplingParams(top_p=0.5)),
        ("top_p_0.9", SamplingParams(top_p=0.9)),
        ("top_p_0.99", SamplingParams(top_p=0.99)),
        ("top_k_1", SamplingParams(top_k=1)),
        ("top_k_5", SamplingParams(top_k=5)),
        ("top_k_50", SamplingParams(top_k=50)),
        ("min_p_0.05", SamplingParams(min_p=0.05)),
        ("min_p_0.2", SamplingParams(min_p=0.2)),
        ("chain_t0.7_k50_p0.9", SamplingParams(temperature=0.7, top_k=50, top_p=0.9)),
    ],
)
def test_filters_agree_with_transformers(
    warpers: dict[str, NDArray[np.generic]], name: str, params: SamplingParams
) -> None:
    """The same tokens stay, with the same probabilities."""
    ours = probabilities(warpers["logits"], params)

    np.testing.assert_array_equal(ours > 0, np.isfinite(warpers[name]))
    expected = softmax(warpers[name].astype(float), axis=1)
    np.testing.assert_allclose(ours, expected, rtol=2e-5, atol=1e-12)


@unhurried
@given(logits=logit_rows(1), params=any_params)
def test_mixtures_agree_with_the_reference(
    logits: NDArray[np.float32], params: SamplingParams
) -> None:
    """Any mixture of parameters gives the reference's probabilities."""
    values = processed(logits[0].tolist(), params)
    assume(max(values) > -np.inf)
    expected, margin = distribution(values, params)
    assume(margin > 1e-6)

    ours = probabilities(logits, params)[0]

    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize(
    ("params", "ids"),
    [
        pytest.param(SamplingParams(top_k=3), [0, 1, 2], id="top-k"),
        pytest.param(SamplingParams(top_p=0.3), [0, 1, 2], id="top-p-reached-exactly"),
        pytest.param(SamplingParams(top_p=0.31), [0, 1, 2, 3], id="top-p-crossed"),
        pytest.param(SamplingParams(top_p=0.0), [0], id="top-p-zero"),
        pytest.param(SamplingParams(min_p=1.0), list(range(10)), id="min-p"),
        pytest.param(SamplingParams(top_k=5, top_p=0.5), [0, 1, 2], id="top-p-of-top-k"),
        pytest.param(SamplingParams(top_k=10), list(range(10)), id="top-k-all"),
    ],
)
def test_ties_at_the_edge_follow_the_ids(params: SamplingParams, ids: list[int]) -> None:
    """Among ten equal tokens the lowest ids stay."""
    assert kept([2.5] * 10, params) == ids


def test_ties_at_the_edge_follow_the_ids_in_a_large_vocabulary() -> None:
    """Far more equal tokens than the head has room for are cut at the right id."""
    logits = np.zeros(5000)
    logits[4321] = 1.0

    assert kept(logits, SamplingParams(top_k=8)) == [0, 1, 2, 3, 4, 5, 6, 4321]
    # The best one weighs e, the others 1 each.
    count = int(np.ceil(0.5 * (np.e + 4999) - np.e))
    assert kept(logits, SamplingParams(top_p=0.5)) == [*range(count), 4321]


def test_top_p_counts_what_top_k_left() -> None:
    """The nucleus is a share of the tokens that top_k kept, not of the vocabulary."""
    logits = np.log([0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1])

    assert kept(logits, SamplingParams(top_p=0.65)) == [0, 1, 2, 3]
    assert kept(logits, SamplingParams(top_k=2, top_p=0.65)) == [0]


def test_filters_see_the_distribution_after_the_temperature() -> None:
    """At a high temperature the nucleus is wider, at a low one narrower."""
    logits = np.log([0.5, 0.3, 0.15, 0.05])

    sizes = [len(kept(logits, SamplingParams(temperature=t, top_p=0.9))) for t in (0.3, 1.0, 2.0)]

    assert sizes == [2, 3, 4]


LONG_TAILS = {
    "flat": np.random.default_rng(1).normal(0, 1, 6000),
    "peak over a plain": np.append(np.log(5999), np.zeros(5999)),
    # Every 32nd token, which a sample looks at, is more probable than the others.
    "misleading sample": np.where(np.arange(6000) % 32 == 0, 0.5, 0.0) + np.eye(1, 6000)[0] * 8.5,
}


@pytest.mark.parametrize("name", LONG_TAILS)
@pytest.mark.parametrize("top_p", [0.8, 0.95, 0.999])
def test_long_nuclei_agree_with_the_reference(name: str, top_p: float) -> None:
    """A nucleus of thousands of tokens is as exact as a short one."""
    params = SamplingParams(top_p=top_p)
    logits = LONG_TAILS[name].astype(np.float32)
    expected, margin = distribution(logits.tolist(), params)

    assert margin > 1e-7
    assert np.count_nonzero(expected) > 512
    np.testing.assert_allclose(probabilities(logits, params)[0], expected, rtol=1e-5)
