"""How values are spread: a few dozen buckets with round bounds, however many values there are."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

import msgspec

NUM_BUCKETS = 24
"""About as many buckets are wanted; the last one may hold all that lies far beyond the others."""


class Histogram(msgspec.Struct, frozen=True):
    """Values in buckets."""

    bounds: list[int | float]
    """Bucket i goes from bounds[i] to below bounds[i + 1]; the last one holds its end as well."""
    counts: list[int]
    """Values in each bucket."""


def histogram(values: Sequence[float], *, is_whole: bool) -> Histogram:
    """Put values into buckets of one width, whole numbers into buckets with whole bounds.

    Where a few values would leave most buckets empty, those beyond the 99th percentile share the
    last bucket.
    """
    if not values:
        return Histogram([], [])
    ordered = sorted(values)
    lowest, usual, highest = ordered[0], ordered[(len(ordered) * 99 - 1) // 100], ordered[-1]
    step = nice_step((usual - lowest) / NUM_BUCKETS, smallest=1 if is_whole else 1e-6)
    bounds = _bounds(lowest, usual, highest + is_whole, step)
    places = [0, *(bisect_left(ordered, bound) for bound in bounds[1:-1]), len(ordered)]
    return Histogram(bounds, [end - start for start, end in pairwise(places)])


def nice_step(width: float, smallest: float = 1e-9) -> float:
    """Give the least of 1, 2, 5, 10, 20, 50 and so on that is at least a width."""
    width = max(width, smallest)
    power = 10.0 ** math.floor(math.log10(width))
    # A quotient such as 2.0000000000000004 is a two.
    factor = next(factor for factor in (1, 2, 5, 10) if factor >= width / power - 1e-9)
    step = factor * power
    return round(step) if step >= 1 else step


def _bounds(lowest: float, usual: float, end: float, step: float) -> list[int | float]:
    first, last = math.floor(lowest / step), math.ceil(end / step)
    if last - first <= 2 * NUM_BUCKETS:
        return [_tidy(index * step) for index in range(first, max(last, first + 1) + 1)]
    last = math.floor(usual / step) + 1
    return [*(_tidy(index * step) for index in range(first, last + 1)), _tidy(end)]


def _tidy(bound: float) -> int | float:
    return int(bound) if bound == int(bound) else round(bound, 9)
