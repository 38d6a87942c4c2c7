"""Laws of the candidates; plain sorting is the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sampling_reference import ranked
from sampling_strategies import logit_rows, unhurried

from aobatch.arrays import Logits
from aobatch.sampling.nucleus import best_until, largest_bounds, pick, running_sums

WEIGHTS = st.lists(st.lists(st.floats(0, 1), min_size=1, max_size=8), min_size=1, max_size=5)


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
    bounds = largest_bounds(logits, np.array([count, 1, 300]))

    assert (np.count_nonzero(logits >= bounds[:, None], axis=1) >= [count, 1, 300]).all()


def test_bound_is_close_in_a_large_vocabulary() -> None:
    """Few more than k of many logits reach the bound: the head stays short."""
    logits = np.random.default_rng(5).normal(0, 3, (2, 49_157)).astype(np.float32)

    bounds = largest_bounds(logits, np.array([40, 3000]))

    sizes = np.count_nonzero(logits >= bounds[:, None], axis=1)
    assert 40 <= sizes[0] < 60
    assert 3000 <= sizes[1] < 6000


@unhurried
@given(logits=logit_rows(2), bound=st.floats(-3, 0, width=32), first=st.integers(0, 9))
def test_pick_takes_what_reaches_the_bound(logits: Logits, bound: float, first: int) -> None:
    """Exactly the finite logits at or above the bound, and the first ids, are picked."""
    peaks = logits.max(axis=1)
    found = pick(logits, np.float32(bound) + peaks, peaks, np.array([1.0, 0.5]), first)

    wanted = (logits - peaks[:, None] >= 0) | (logits >= np.float32(bound) + peaks[:, None])
    wanted[:, :first] = True
    rows, ids = np.nonzero(wanted)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.ids, ids)
    expected = (peaks[rows].astype(float) - logits[rows, ids]) / np.array([1.0, 0.5])[rows]
    np.testing.assert_array_equal(found.depths, expected)


@unhurried
@given(logits=logit_rows(2), share=st.floats(0, 1.1))
def test_best_until_is_the_shortest_sorted_prefix(logits: Logits, share: float) -> None:
    """The marked tokens are the first of the sorted row whose sum reaches the target."""
    peaks = logits.max(axis=1)
    found = pick(logits, np.full(2, -np.inf, dtype=np.float32), peaks, np.ones(2))
    counts = np.ceil(share * found.sizes)
    mask = best_until(found, np.ones(len(found.ids)), counts.astype(float))

    for row in range(2):
        best = ranked(logits[row].tolist())[: max(1, int(counts[row]))]
        expected = [token for token in sorted(best) if np.isfinite(logits[row, token])]
        assert found.ids[mask & (found.rows == row)].tolist() == expected
