"""What takes tokens out of the draw, one pure function a parameter."""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from aobatch.arrays import TokenIds
from aobatch.sampling.bounds import candidates
from aobatch.sampling.field import Field
from aobatch.sampling.heads import Heads, best_until


def keep_top_k(heads: Heads, field: Field) -> Heads:
    """Keep the top_k most probable tokens, ties by id."""
    if not field.is_limited.any():
        return heads
    counts = np.where(field.is_limited, field.table["top_k"], np.inf)
    return heads.keep(best_until(heads, np.ones_like(heads.weights), counts))


def keep_top_p(heads: Heads, field: Field) -> Heads:
    """Keep the fewest tokens that reach top_p of what top_k has left (Holtzman et al. 2019)."""
    is_used = field.table["top_p"] < 1
    if not is_used.any():
        return heads
    totals = np.where(field.is_limited, heads.totals(heads.weights), field.totals)
    targets = np.where(is_used, field.table["top_p"] * totals, np.inf)
    return heads.keep(best_until(heads, heads.weights, targets))


def keep_min_p(heads: Heads, field: Field) -> Heads:
    """Keep the tokens at least min_p times as probable as the best (Nguyen et al. 2024)."""
    min_p = field.table["min_p"]
    if not (min_p > 0).any():
        return heads
    return heads.keep(heads.weights >= heads.spread(min_p))


FILTERS: Final[tuple[Callable[[Heads, Field], Heads], ...]] = (keep_top_k, keep_top_p, keep_min_p)
"""The order: each takes from what the one before it has left."""


def filtered(field: Field) -> Iterator[tuple[TokenIds, Heads]]:
    """Give groups of rows, by their places in the field, and what the filters leave of each."""
    for rows, heads in candidates(field):
        part = field.take(rows)
        for keep in FILTERS:
            heads = keep(heads, part)
        yield rows, heads
