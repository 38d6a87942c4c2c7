"""The most probable tokens of each row, in one run of arrays however many each row has."""

from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds

Scalar = TypeVar("Scalar", bound=np.generic)

NUM_BINS: Final = 512
BINS_PER_NAT: Final = 16
"""Depths are told apart by 1/16 nat down to 32 nats, and put together below that."""

UNIT: Final = 2.0**-44
"""Running sums count in this part of the best token's weight."""


@dataclass(frozen=True, slots=True)
class Heads:
    """Some tokens of each row, at least one, row after row and ids rising within a row."""

    sizes: TokenIds
    """How many tokens each row has, [n]; they add up to M."""

    ids: TokenIds
    """Token ids, [M]."""

    depths: Floats
    """How far below the row's best token, in nats after the temperature, [M], at least 0."""

    weights: Floats
    """Probabilities in proportion to the row's best token, exp(-depth), [M]."""

    @property
    def starts(self) -> TokenIds:
        """Give the place of each row's first token, [n]."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    @property
    def rows(self) -> TokenIds:
        """Give the row of each token, [M]."""
        return self.spread(np.arange(len(self.sizes)))

    def spread(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Give each token its row's value, [M] from [n]."""
        return np.repeat(values, self.sizes)

    def totals(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Add up the tokens' values [M] for each row, [n]."""
        return np.asarray(np.add.reduceat(values, self.starts))

    def take(self, is_taken: NDArray[np.bool_]) -> "Heads":
        """Take only the marked rows [n]."""
        if is_taken.all():
            return self
        kept = np.flatnonzero(self.spread(is_taken))
        arrays = self.ids[kept], self.depths[kept], self.weights[kept]
        return Heads(self.sizes[is_taken], *arrays)

    def keep(self, mask: NDArray[np.bool_]) -> "Heads":
        """Keep the marked tokens, of which each row has one."""
        kept = np.flatnonzero(mask)
        sizes = np.diff(np.searchsorted(kept, self.starts), append=len(kept))
        return Heads(sizes, self.ids[kept], self.depths[kept], self.weights[kept])


def pick(
    logits: Logits, bounds: Logits, peaks: Logits, temperatures: Floats, first: int = 0
) -> Heads:
    """Pick the finite logits [n, V] that reach the row's bound [n], and the first ids anyway.

    Depths count from peaks [n], the rows' maxima, and are divided by temperatures [n].
    """
    num_rows, vocab_size = logits.shape
    mask = logits >= np.maximum(bounds, np.finfo(np.float32).min)[:, None]
    mask[:, :first] = True
    places = np.flatnonzero(mask)
    starts = np.arange(num_rows) * vocab_size
    sizes = np.diff(np.searchsorted(places, starts), append=len(places))
    depths = np.repeat(peaks.astype(np.float64), sizes)
    depths -= logits.reshape(-1)[places]
    depths /= np.repeat(temperatures, sizes)
    return Heads(sizes, places - np.repeat(starts, sizes), depths, np.exp(-depths))


def running_sums(weights: Floats, sizes: TokenIds) -> Floats:
    """Add up weights [M] >= 0 along rows of the given sizes [n], [M].

    The sums are of integers: these add exactly, so that a row, although summed in one go with the
    others, cannot feel them. Up to 2**19 weights of at most 1 fit; across rows sums may wrap.
    """
    steps = np.rint(weights / UNIT).astype(np.uint64)
    sums = np.cumsum(steps)
    ends = np.cumsum(sizes)
    before = np.append(np.uint64(0), sums)[ends - sizes]
    return np.asarray((sums - np.repeat(before, sizes)) * UNIT)


def best_until(heads: Heads, weights: Floats, targets: Floats) -> NDArray[np.bool_]:
    """Mark in each row the fewest tokens, best first, whose weights [M] reach the target [n].

    The order is (depth, id). The best token always stays; all stay where they never reach it.
    Only the tokens in the narrow bin of depths in which the sum crosses the target are sorted.
    """
    num_rows = len(heads.sizes)
    targets = np.maximum(targets, UNIT)
    bins = np.minimum(heads.depths * BINS_PER_NAT, NUM_BINS - 1).astype(np.int64)
    flat = bins + heads.spread(np.arange(num_rows) * NUM_BINS)
    sums = np.asarray(np.bincount(flat, weights, num_rows * NUM_BINS), dtype=np.float64)
    crossing, before = _cross(sums.reshape(num_rows, NUM_BINS), targets)

    limits = heads.spread(crossing)
    mask = bins < limits
    edge = np.flatnonzero(bins == limits)
    rows = np.searchsorted(heads.starts, edge, side="right") - 1
    edge = edge[np.lexsort((heads.depths[edge], rows))]
    sizes = np.bincount(rows, minlength=num_rows)
    ahead = running_sums(weights[edge], sizes) - weights[edge]
    mask[edge] = before[rows] + ahead < targets[rows]
    return np.asarray(mask)


def _cross(sums: Floats, targets: Floats) -> tuple[TokenIds, Floats]:
    """Find the bin [n] in which bins' sums [n, bins] reach the target, and what is before it [n].

    The bin is one past the last where they never reach it.
    """
    reached = np.cumsum(sums, axis=1)
    crossing = np.count_nonzero(reached < targets[:, None], axis=1)
    before = reached[np.arange(len(targets)), np.maximum(crossing - 1, 0)]
    return crossing, np.where(crossing > 0, before, 0.0)
