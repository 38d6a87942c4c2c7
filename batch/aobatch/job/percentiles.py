"""How values are spread, in three of them."""

import math
from collections.abc import Sequence

import msgspec


class Percentiles(msgspec.Struct, frozen=True):
    """The values that half, nine tenths and 99 of 100 requests do not exceed."""

    p50: int | float | None
    p90: int | float | None
    p99: int | float | None


NO_PERCENTILES = Percentiles(None, None, None)


def percentiles(values: Sequence[float]) -> Percentiles:
    """Give the nearest-rank percentiles of some values; all None without any."""
    ordered = sorted(values)
    if not ordered:
        return NO_PERCENTILES
    # ceil(p/100 * N)-th smallest value.
    ranks = (math.ceil(p * len(ordered) / 100) for p in (50, 90, 99))
    return Percentiles(*(tidy(ordered[rank - 1]) for rank in ranks))


def tidy(value: float) -> int | float:
    """Write counts as integers and seconds to the microsecond."""
    return int(value) if value == int(value) else round(value, 6)
