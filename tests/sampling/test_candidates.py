"""Laws of the candidates; plain sorting is the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sampling_reference import ranked
from sampling_strategies import logit_rows, unhurried

from aobatch.arrays import Logits
from aobatch.sampling.blocks import Blocks, largest_bounds, running_sums

WEIGHTS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=5)


def maxima_of(logits: Logits) -> Logits:
    """Give the largest logit of each block."""
    return Blocks(logits).measure(np.arange(len(logits)), np.zeros(len(logits))).maxima


@unhurried
@given(rows=WEIGHTS)
def test_running_sums_start_anew_at_each_row(rows: list[list[float]]) -> None:
    """Each row's sums are its own cumulative sum."""
    sums = running_sums(np.concatenate(rows), np.array([len(row) for row in rows]))

    np.testing.assert_allclose(sums, np.concatenate([np.cumsum(row) for row in rows]), atol=1e-12)


@unhurried
@given(rows=WEIGHTS)
def test_running_sums_do_not_feel_other_rows(rows: list[list[float]]) -> None:
    """A row's sums are the same bits with or without 300,000 units of mass before it."""
    alone = running_sums(np.array(rows[-1]), np.array([len(rows[-1])]))
    crowd = np.ones(300_000)
    sums = running_sums(np.append(crowd, rows[-1]), np.array([crowd.size, len(rows[-1])]))

    np.testing.assert_array_equal(sums[crowd.size :], alone)


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
@given(logits=logit_rows(2, 700), bound=st.floats(-3, 0, width=32), height=st.floats(0, 3))
def test_opened_blocks_give_what_lies_between_the_bounds(
    logits: Logits, bound: float, height: float
) -> None:
    """Exactly the finite logits from the bound on and under the ceiling are found, in order."""
    bounds = np.append(logits[0].max() + np.float32(bound), np.float32(-np.inf))
    ceilings = np.append(bounds[0] + np.float32(height), np.float32(np.inf))

    rows, ids, values = Blocks(logits).find(np.arange(2), maxima_of(logits), bounds, ceilings)

    is_between = np.isfinite(logits) & (logits >= bounds[:, None]) & (logits < ceilings[:, None])
    expected_rows, expected_ids = np.nonzero(is_between)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(values, logits[is_between])


@unhurried
@given(logits=logit_rows(2), share=st.floats(0, 1.1))
def test_best_until_is_the_shortest_sorted_prefix(logits: Logits, share: float) -> None:
    """The marked tokens are the first of the sorted row whose sum reaches the target."""
    ids = [np.flatnonzero(np.isfinite(row)) for row in logits]
    values = np.concatenate([row[found] for row, found in zip(logits, ids, strict=True)])
    sizes = np.array([len(found) for found in ids])
    counts = np.ceil(share * sizes)
    mask = Blocks(logits).best_until(sizes, values, np.ones(len(values)), counts)

    for row, marks in enumerate(np.split(mask, sizes[:1])):
        best = ranked(logits[row].tolist())[: max(1, int(counts[row]))]
        expected = [token for token in sorted(best) if np.isfinite(logits[row, token])]
        assert ids[row][marks].tolist() == expected
