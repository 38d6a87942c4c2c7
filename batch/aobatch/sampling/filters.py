"""The draw that top_k, top_p and min_p narrow, by one uniform number a row.

All three keep the first tokens of one order, the most probable first, ties by id; the draw is the
inverse of the distribution function over what is kept, by id. Sums are of masses, which add
exactly, so that every way to find the same tokens gives the same bits.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Table
from aobatch.sampling.weights import GRID, LEAST, logarithm, masses_of

USUAL_SHARE: Final = 512
"""Among tokens less probable than (1 - top_p) / 512 there is seldom one of the nucleus."""

LONG: Final = 1024
"""A row that lacks more tokens is looked at as a whole."""

FEWER: Final = 80
"""For each so many tokens that a first look lacks, at least, a second goes down once more."""

SLACK: Final = 1e-3
"""Lowers bounds, in nats, by far more than rounding can raise them."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a step with what their draw needs."""

    rows: TokenIds
    """Which rows of the step, [n]."""
    vocab_size: int
    peaks: Logits
    """The largest logit of each row, finite, [n]."""
    table: Table
    """The parameters, [n]."""
    maxima: Logits
    """The largest logit of each block, [n, blocks]."""
    reached: Floats
    """Running sums of exp((logit - peak) / temperature) by blocks, [n, blocks]; 0 if unused."""

    @property
    def temperatures(self) -> Floats:
        """The temperatures, [n]."""
        return np.asarray(self.table["temperature"], dtype=np.float64)

    @property
    def totals(self) -> Floats:
        """The weight of the whole vocabulary, [n], 0 if unused."""
        return self.reached[:, -1]

    @property
    def is_limited(self) -> NDArray[np.bool_]:
        """Which rows have a top_k, [n]."""
        return is_limited(self.table, self.vocab_size)

    @property
    def floors(self) -> Logits:
        """The smallest logit that min_p leaves, [n], the smallest finite one without a min_p.

        Tokens stay that are at least min_p times as probable as the best (Nguyen et al. 2024).
        """
        min_p = np.maximum(self.table["min_p"], np.finfo(np.float64).tiny)
        exact = self.peaks + logarithm(min_p) * self.temperatures
        near = exact.astype(np.float32)
        above = np.nextafter(near, np.float32(np.inf))
        floors = np.where(near < exact, above, near)
        return np.where(self.table["min_p"] > 0, np.maximum(floors, LEAST), LEAST)

    @property
    def usual_shares(self) -> Floats:
        """Weights under which there is seldom a token of the nucleus, [n]."""
        return np.asarray((1 - self.table["top_p"]) * self.totals / USUAL_SHARE)

    def take(self, places: TokenIds) -> "Rows":
        """Take the rows at places, which rise."""
        if len(places) == len(self.rows):
            return self
        return Rows(
            self.rows[places],
            self.vocab_size,
            self.peaks[places],
            self.table[places],
            self.maxima[places],
            self.reached[places],
        )


def is_limited(table: Table, vocab_size: int) -> NDArray[np.bool_]:
    """Say which rows have a top_k, [n]."""
    return np.asarray(table["top_k"] < vocab_size)


class Drawn(NamedTuple):
    """The tokens that were drawn of some rows, and what filters had left of these."""

    token_ids: TokenIds
    """[n]."""
    totals: Floats
    """The mass of what was left, [n]."""
    last_logits: Logits
    """The logit of the least probable token that was left, [n]."""
    last_ids: TokenIds
    """Its id, [n]."""

    def put(self, places: TokenIds, drawn: "Drawn") -> None:
        """Set what was drawn at places."""
        self.token_ids[places], self.totals[places] = drawn.token_ids, drawn.totals
        self.last_logits[places], self.last_ids[places] = drawn.last_logits, drawn.last_ids


def blank_drawn(num_rows: int) -> Drawn:
    """Make room for what will be drawn of rows."""
    ids, last_ids = np.zeros((2, num_rows), np.int64)
    return Drawn(ids, np.zeros(num_rows), np.zeros(num_rows, np.float32), last_ids)


def usual_bounds(rows: Rows) -> Logits:
    """Guess at which logits nuclei end, [n]; min_p, which surely ends one, may be above it."""
    is_nucleus = rows.table["top_p"] < 1
    share = np.where(is_nucleus, rows.usual_shares, 0.0)
    tail = np.minimum(logarithm(np.maximum(share, np.finfo(np.float64).tiny)), 0.0) - SLACK
    by_tail = np.asarray(rows.peaks + tail * rows.temperatures, dtype=np.float32)
    return np.maximum(by_tail, rows.floors)


def lower_bounds(rows: Rows, bounds: Logits, missing: Floats) -> Logits:
    """Lower the bounds [n] of rows whose candidates miss so much weight [n]; to the end where far.

    The tokens that are missing weigh less than the bound, so there are that many at least.
    """
    at_least = missing / rows.usual_shares
    lower = logarithm(1.5 + at_least / FEWER) * rows.temperatures
    lowered = np.where(at_least < LONG, bounds - lower, -np.inf).astype(np.float32)
    return np.maximum(lowered, rows.floors)


def draw_among(
    logits: Logits, ids: TokenIds | None, rows: Rows, uniforms: Floats
) -> tuple[Drawn, Floats]:
    """Draw by uniforms [n] among candidates: logits [n, K], -inf where there are fewer, and ids.

    Ids rise along a row, and are its places if not given. Gives also the weight that the nucleus
    lacks, [n]: where there is any, and more candidates, they do not do.
    """
    every, order = np.arange(len(logits)), np.sort(logits, axis=1)[:, ::-1]
    counts, missing = _count_kept(order, rows)
    least = order[every, counts - 1][:, None]
    is_last = logits == least
    ties = counts - np.count_nonzero(order > least, axis=1)
    is_last &= np.cumsum(is_last, axis=1, dtype=np.int32) <= ties[:, None]
    del order
    sums = masses_of(logits, rows.peaks, rows.temperatures)
    sums *= is_last | (logits > least)
    np.cumsum(sums, axis=1, out=sums)
    totals = sums[:, -1]
    places = np.count_nonzero(sums <= targets_of(uniforms, totals)[:, None], axis=1)
    last = logits.shape[1] - 1 - is_last[:, ::-1].argmax(axis=1)
    if ids is not None:
        places, last = ids[every, places], ids[every, last]
    return Drawn(places, totals.copy(), least[:, 0], last), missing


def _count_kept(order: Logits, rows: Rows) -> tuple[TokenIds, Floats]:
    """Count how many of the sorted candidates [n, K] filters leave; the weight that is lacking."""
    top_p, every = rows.table["top_p"], np.arange(len(order))
    counts = np.count_nonzero(order >= rows.floors[:, None], axis=1)
    counts = np.minimum(counts, rows.table["top_k"])
    if (top_p >= 1).all():
        return counts, np.zeros(len(order))
    sums = masses_of(order, rows.peaks, rows.temperatures)
    np.cumsum(sums, axis=1, out=sums)
    # The nucleus is a share of what top_k has left (Holtzman et al. 2019), whatever min_p drops.
    limits = np.minimum(rows.table["top_k"], order.shape[1])
    totals = np.where(rows.is_limited, sums[every, limits - 1], rows.totals)
    targets = np.where(top_p < 1, np.maximum(top_p * totals, GRID), np.inf)
    nucleus = 1 + np.count_nonzero(sums[:, :-1] < targets[:, None], axis=1)
    missing = np.where(top_p < 1, np.maximum(targets - sums[:, -1], 0.0), 0.0)
    return np.minimum(counts, nucleus), missing


def targets_of(uniforms: Floats, totals: Floats) -> Floats:
    """Give the running sums that uniforms [n] stand for.

    They are under the total even for a rest of 1, so that a weight of 0 is never met.
    """
    return np.minimum(uniforms * totals, np.nextafter(totals, 0.0))
