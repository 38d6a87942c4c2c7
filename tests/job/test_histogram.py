"""Laws of histograms and percentiles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.job.report.usage import NUM_BUCKETS, Percentiles, histogram, nice_step, percentiles

WHOLE = st.lists(st.integers(0, 200_000), min_size=1, max_size=300)
REAL = st.lists(st.floats(0, 1e6, allow_nan=False), min_size=1, max_size=300)


@given(values=WHOLE)
def test_whole_values_are_counted_once(values: list[int]) -> None:
    """Counts are numpy's for the same bounds, which are whole numbers around all values."""
    found = histogram(values, is_whole=True)

    assert found.counts == np.histogram(values, found.bounds)[0].tolist()
    assert sum(found.counts) == len(values)
    assert all(isinstance(bound, int) for bound in found.bounds)
    assert found.bounds[0] <= min(values)
    assert max(values) < found.bounds[-1]


@given(values=REAL)
def test_seconds_are_counted_once(values: list[float]) -> None:
    """No value is lost, and the bounds ascend around all of them."""
    found = histogram(values, is_whole=False)

    assert sum(found.counts) == len(values)
    assert found.bounds == sorted(set(found.bounds))
    assert found.bounds[0] <= min(values) + 1e-9
    assert max(values) <= found.bounds[-1] + 1e-9
    assert len(found.counts) <= 2 * NUM_BUCKETS + 1, "they fit into a drawing"


def test_far_values_share_the_last_bucket() -> None:
    """One request in a thousand that takes very long does not flatten all others."""
    found = histogram([*range(1000), 1_000_000], is_whole=True)

    assert found.bounds[-2:] == [1000, 1_000_001]
    assert found.counts == [50] * 20 + [1]


@pytest.mark.parametrize("value", [0, 7, 64])
def test_equal_values_fill_one_bucket(value: int) -> None:
    """Values that are all the same have one bucket, which names them."""
    found = histogram([value] * 5, is_whole=True)

    assert (found.bounds, found.counts) == ([value, value + 1], [5])


def test_nothing_has_no_buckets() -> None:
    """Without values there is nothing to draw, and there are no percentiles."""
    assert histogram([], is_whole=True).counts == []
    assert percentiles([]) == Percentiles(None, None, None)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101])
def test_percentiles_are_nearest_rank(count: int) -> None:
    """The percentiles are those of numpy's inverted distribution function."""
    values = [(7919 * i) % 1009 for i in range(count)]

    found = percentiles(values)

    expected = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    assert [found.p50, found.p90, found.p99] == expected.tolist()


@pytest.mark.parametrize(
    ("width", "step"), [(0.2, 0.2), (0.21, 0.5), (0.7, 1), (1, 1), (3, 5), (51, 100), (0.03, 0.05)]
)
def test_steps_are_ones_twos_and_fives(width: float, step: float) -> None:
    """The least round step that is wide enough is taken."""
    assert nice_step(width) == pytest.approx(step)
