"""Laws of the candidates and of their masses; plain sorting and exact sums are the oracles."""

import math
from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sampling_strategies import logit_rows, unhurried

from aobatch.arrays import Logits
from aobatch.sampling.blocks import Blocks, largest_bounds
from aobatch.sampling.weights import GRID, masses_of


def maxima_of(logits: Logits) -> Logits:
    """Give the largest logit of each block."""
    return Blocks(logits).measure(np.arange(len(logits)), np.zeros(len(logits))).maxima


@unhurried
@given(logits=logit_rows(2), order=st.randoms(use_true_random=False))
def test_masses_add_up_to_the_same_in_any_order(logits: Logits, order: Random) -> None:
    """Masses are close to weights, and sums of any of them are exact."""
    peaks, temperatures = logits.max(axis=1), np.array([0.5, 2.0])
    masses = masses_of(logits, peaks, temperatures)
    depths = (peaks[:, None].astype(np.float64) - logits) / temperatures[:, None]
    shuffled = order.sample(range(logits.shape[1]), logits.shape[1])

    np.testing.assert_allclose(masses, np.exp(-depths), rtol=2e-6, atol=GRID)
    for row in masses:
        assert np.cumsum(row)[-1] == np.cumsum(row[shuffled])[-1] == math.fsum(row)


def test_masses_of_the_largest_vocabulary_add_exactly() -> None:
    """Half a million tokens, as probable as the best one or far less so, lose nothing."""
    logits = np.resize(np.float32([0.0, -20.0, -3.3]), (1, 2**19))
    sums = np.cumsum(masses_of(logits, np.float32([0.0]), np.array([1.0])), axis=1)

    one = masses_of(logits[:, :3], np.float32([0.0]), np.array([1.0])) / GRID
    thirds, rest = divmod(2**19, 3)
    exact = thirds * sum(map(int, one[0])) + sum(map(int, one[0, :rest]))
    assert int(sums[0, -1] / GRID) == exact


@unhurried
@given(logits=logit_rows(3), count=st.integers(1, 300))
def test_enough_logits_reach_their_bound(logits: Logits, count: int) -> None:
    """At least as many logits as asked are at or above the bound, in every row."""
    counts = np.array([count, 1, 300])
    bounds = largest_bounds(Blocks(logits), np.arange(3), maxima_of(logits), counts)

    assert (np.count_nonzero(logits >= bounds[:, None], axis=1) >= counts).all()


def test_bound_is_close_in_a_large_vocabulary() -> None:
    """Few more than k of many logits reach the bound: the head stays short."""
    logits = np.random.default_rng(5).normal(0, 3, (2, 49_157)).astype(np.float32)

    bounds = largest_bounds(Blocks(logits), np.arange(2), maxima_of(logits), np.array([40, 3000]))

    sizes = np.count_nonzero(logits >= bounds[:, None], axis=1)
    assert 40 <= sizes[0] < 60
    assert 3000 <= sizes[1] < 6000


@unhurried
@given(logits=logit_rows(2, 700), bound=st.floats(-3, 0, width=32))
def test_opened_blocks_give_what_lies_above_the_bounds(logits: Logits, bound: float) -> None:
    """Exactly the finite logits from the bound on are found, in order."""
    bounds = np.append(logits[0].max() + np.float32(bound), np.float32(-np.inf))

    rows, ids, values = Blocks(logits).find(np.arange(2), maxima_of(logits), bounds)

    is_above = np.isfinite(logits) & (logits >= bounds[:, None])
    expected_rows, expected_ids = np.nonzero(is_above)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, logits[is_above])
