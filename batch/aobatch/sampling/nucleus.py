"""Which tokens a filtered draw is made from: top_k, top_p and min_p, one pure function each.

All three keep the first tokens of one order, the most probable first, ties by id. Nothing is sorted
but what has to be: bounds pick a few candidates of each row out of the blocks that reach them, and
only candidates around the end of what a filter keeps are put in order. Of a long nucleus only the
tokens around its end are candidates; those before it are summed by blocks.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.blocks import (
    BLOCK,
    SMALLEST_SPAN,
    Blocks,
    Measured,
    block_weights,
    largest_bounds,
    logarithm,
    scales_of,
    weights_of,
)
from aobatch.sampling.columns import Table

USUAL_SHARE: Final = 512
"""Among tokens less probable than (1 - top_p) / 512 there is seldom one of the nucleus."""

SAMPLE: Final = 1024
"""Tokens of a row, about, that are looked at to guess where a long nucleus ends."""

AROUND: Final = 32
"""Sampled tokens on each side of that which tell how densely weight lies there."""

WIDTHS: Final = (0.25, 8.0, np.inf)
"""By which part of itself a corrected guess is doubted, one after the other until it is right."""

LONG: Final = 1024
"""A nucleus that surely has more tokens, or lacks more after a first look, is long."""

FEWER: Final = 80
"""For each so many tokens that a first look lacks, at least, a second goes down once more."""

OPEN_AT_ONCE: Final = 8192
"""Blocks that are opened for rows with short nuclei before these are cut."""

LONG_AT_ONCE: Final = 2**22
"""Logits of rows with long nuclei that are worked on at a time."""

SLACK: Final = 1e-3
"""Lowers bounds, in nats, by far more than rounding can raise them."""

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a step with what their draw needs."""

    blocks: Blocks
    """Of the whole step, [B, V]."""
    rows: TokenIds
    """Which rows of the step, [n]."""
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
        return is_limited(self.table, self.blocks.vocab_size)

    @property
    def is_nucleus(self) -> NDArray[np.bool_]:
        """Which rows have a top_p that applies to the whole vocabulary, [n]."""
        return ~self.is_limited & (self.table["top_p"] < 1)

    def take(self, places: TokenIds) -> "Rows":
        """Take the rows at the places."""
        if len(places) == len(self.rows):
            return self
        return Rows(
            self.blocks,
            self.rows[places],
            self.peaks[places],
            self.table[places],
            self.maxima[places],
            self.reached[places],
        )


def rows_of(blocks: Blocks, rows: TokenIds, peaks: Logits, table: Table, found: Measured) -> Rows:
    """Make rows out of what was measured of their blocks."""
    temperatures = np.asarray(table["temperature"], dtype=np.float64)
    weights = block_weights(found, peaks, temperatures)
    return Rows(blocks, rows, peaks, table, found.maxima, np.cumsum(weights, axis=1))


def is_limited(table: Table, vocab_size: int) -> NDArray[np.bool_]:
    """Say which rows have a top_k, [n]."""
    return np.asarray(table["top_k"] < vocab_size)


@dataclass(frozen=True, slots=True)
class Candidates:
    """Some tokens of each row, row after row and ids rising within a row."""

    sizes: TokenIds
    """How many tokens each row has, [n]; they add up to M."""
    ids: TokenIds
    """Token ids, [M]."""
    logits: Logits
    """Their logits, [M]."""
    weights: Floats
    """Probabilities in proportion to the row's best token, [M]."""

    @property
    def starts(self) -> TokenIds:
        """The place of each row's first token, [n]."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    @property
    def rows(self) -> TokenIds:
        """The row of each token, [M]."""
        return self.spread(np.arange(len(self.sizes)))

    @property
    def last(self) -> tuple[Logits, TokenIds]:
        """Logit and id of each row's last token, the least probable one, [n] each."""
        least = np.minimum.reduceat(self.logits, self.starts)
        ids = np.where(self.logits == self.spread(least), self.ids, -1)
        return least, np.maximum.reduceat(ids, self.starts)

    def spread(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Repeat each row's value for its tokens, [M] from [n]."""
        return np.repeat(values, self.sizes)

    def totals(self, values: Floats) -> Floats:
        """Add up the tokens' values [M] for each row, [n]."""
        return np.asarray(np.bincount(self.rows, values, len(self.sizes)), dtype=np.float64)

    def take(self, is_taken: NDArray[np.bool_]) -> "Candidates":
        """Take only the marked rows [n]."""
        if is_taken.all():
            return self
        kept = np.flatnonzero(self.spread(is_taken))
        return self._of(self.sizes[is_taken], kept)

    def keep(self, mask: NDArray[np.bool_]) -> "Candidates":
        """Keep the marked tokens."""
        kept = np.flatnonzero(mask)
        return self._of(np.diff(np.searchsorted(kept, self.starts), append=len(kept)), kept)

    def _of(self, sizes: TokenIds, kept: TokenIds) -> "Candidates":
        return Candidates(sizes, self.ids[kept], self.logits[kept], self.weights[kept])


def pick(rows: Rows, bounds: Logits, ceilings: Logits | None = None) -> Candidates:
    """Pick the finite logits that reach the row's bound [n], and are under its ceiling [n]."""
    owners, ids, logits = rows.blocks.find(rows.rows, rows.maxima, bounds, ceilings)
    sizes = np.bincount(owners, minlength=len(rows.rows))
    weights = rows.blocks.weigh(logits, sizes, rows.peaks, rows.temperatures)
    return Candidates(sizes, ids, logits, weights)


@dataclass(frozen=True, slots=True)
class Kept:
    """What the filters leave of some rows: candidates, and whole blocks above a floor."""

    rows: Rows
    found: Candidates
    floors: Logits
    """From which logit on a token is not among the candidates but in the blocks, [n]."""
    reached: Floats
    """Running sums of the weights from the floor on by blocks, [n, blocks], or [n, 1] of 0."""

    @property
    def base(self) -> Floats:
        """The weight of the blocks, [n]."""
        return self.reached[:, -1]

    @property
    def totals(self) -> Floats:
        """The weight of all that is left, [n]."""
        return self.base + self.found.totals(self.found.weights)

    def take(self, is_taken: NDArray[np.bool_]) -> "Kept":
        """Take only the marked rows [n]."""
        rows = self.rows.take(np.flatnonzero(is_taken))
        found = self.found.take(is_taken)
        return Kept(rows, found, self.floors[is_taken], self.reached[is_taken])


def filtered(rows: Rows) -> Iterator[tuple[TokenIds, Kept]]:
    """Yield groups of rows, by their places [g], and what the filters leave of each.

    A group is small enough for its candidates to stay in the cache.
    """
    bounds, is_complete = _bounds(rows)
    # No token weighs more than 1.
    is_long = ~is_complete & (rows.table["top_p"] * rows.totals > LONG)
    left = np.flatnonzero(~is_long)
    for _ in range(2):
        missing = np.zeros(len(bounds))
        for places in _groups(rows, bounds, left):
            part = rows.take(places)
            found = pick(part, bounds[places])
            rest = part.table["top_p"] * part.totals - found.totals(found.weights)
            is_done = is_complete[places] | (rest <= 0)
            missing[places] = np.where(is_done, 0.0, rest)
            if is_done.any():
                done = places[is_done]
                yield done, _cut(rows.take(done), found.take(is_done))
        left = np.flatnonzero(missing)
        # The tokens that are missing weigh less than the bound, so there are that many at least.
        at_least = missing[left] / _usual_shares(rows.take(left))
        is_long[left] = True
        left, at_least = left[at_least < LONG], at_least[at_least < LONG]
        lower = logarithm(1.5 + at_least / FEWER) * rows.temperatures[left]
        bounds[left] -= lower.astype(np.float32)
        is_long[left] = False
    is_long[left] = True
    undone = np.flatnonzero(is_long)
    if undone.size:
        yield from ((undone[places], kept) for places, kept in _long(rows.take(undone)))


def _groups(rows: Rows, bounds: Logits, places: TokenIds) -> Iterator[TokenIds]:
    """Divide rows at places by how many blocks their bounds open, and what their top_k is."""
    opened = np.count_nonzero(rows.maxima[places] >= bounds[places, None], axis=1)
    opened += np.where(rows.is_limited[places], rows.table["top_k"][places] // BLOCK, 0)
    groups = np.cumsum(opened) // OPEN_AT_ONCE
    for group in np.unique(groups):
        yield places[groups == group]


def _usual_shares(rows: Rows) -> Floats:
    """Give weights under which there is seldom a token of the nucleus, [n]."""
    return np.asarray((1 - rows.table["top_p"]) * rows.totals / USUAL_SHARE)


def _cut(rows: Rows, found: Candidates) -> Kept:
    for keep in FILTERS:
        found = keep(found, rows)
    num_rows = len(rows.rows)
    floors = np.full(num_rows, np.inf, dtype=np.float32)
    return Kept(rows, found, floors, np.zeros((num_rows, 1)))


def _long(rows: Rows) -> Iterator[tuple[TokenIds, Kept]]:
    """Cut long nuclei: sum up what is surely in them, and order what is around their ends."""
    left, ends = np.arange(len(rows.rows)), _guess_ends(rows)
    for width in WIDTHS:
        part, guesses = rows.take(left), ends[:, left]
        bounds, floors, reached = _window(part, guesses, width)
        missed: list[TokenIds] = []
        step = max(1, LONG_AT_ONCE // rows.blocks.vocab_size)
        for start in range(0, len(left), step):
            places = np.arange(start, min(start + step, len(left)))
            group = part.take(places)
            found = pick(group, bounds[places], floors[places])
            kept = Kept(group, found, floors[places], reached[places])
            targets = group.table["top_p"] * group.totals
            is_cut = (kept.base < targets) & (kept.totals >= targets)
            # What is under min_p of the best token is dropped anyway.
            is_cut |= (group.table["min_p"] > 0) | (bounds[places] == -np.inf)
            missed.append(left[places[~is_cut]])
            if is_cut.any():
                yield left[places[is_cut]], _cut_long(kept.take(is_cut), targets[is_cut])
        left = np.concatenate(missed)
        if not left.size:
            return


def _cut_long(kept: Kept, targets: Floats) -> Kept:
    found = kept.found
    found = keep_until(found, kept.rows, found.weights, targets - kept.base)
    return replace(kept, found=keep_min_p(found, kept.rows))


def _guess_ends(rows: Rows) -> Floats:
    """Guess from a sample of each row at which logit its nucleus ends.

    Gives that, how much weight lies in a nat around it, and the standard error, at most, of the
    weight under it; [3, n].
    """
    sample, share = rows.blocks.sample(rows.rows, SAMPLE)
    sample = np.sort(sample, axis=1)
    scales = scales_of(rows.temperatures)[:, None]
    weights = weights_of(sample.copy(), rows.peaks[:, None], scales)
    weights *= np.float32(share)
    below = np.cumsum(weights, axis=1, dtype=np.float64)
    every, last = np.arange(len(sample)), sample.shape[1] - 1
    allowed = (1 - rows.table["top_p"]) * rows.totals
    place = np.minimum(np.count_nonzero(below <= allowed[:, None], axis=1), last)
    # No weight below is larger than that at the place.
    errors = np.sqrt(weights[every, place] * below[every, place])
    first, end = np.maximum(place - AROUND, 0), np.minimum(place + AROUND, last)
    nats = np.maximum(sample[every, end].astype(np.float64) - sample[every, first], SMALLEST_SPAN)
    slopes = (below[every, end] - below[every, first]) / nats
    return np.array([sample[every, place], slopes, errors])


def _window(rows: Rows, guesses: Floats, width: float) -> tuple[Logits, Logits, Floats]:
    """Tell between which logits nuclei end, bounds and floors [n], and what lies above by blocks.

    The weight above the guessed end says how far the true one is; the window is as wide as that
    may be wrong. An infinite width leaves every token between them.
    """
    ends, slopes, errors = guesses
    above = _reached(rows, ends.astype(np.float32))[:, -1]
    lacking = rows.table["top_p"] * rows.totals - above
    doubt = width * (np.abs(lacking) + errors / 8)
    floors = (ends - (lacking - doubt) / slopes).astype(np.float32)
    bounds = (ends - (lacking + doubt) / slopes).astype(np.float32)
    is_bounded = rows.table["min_p"] > 0
    bounds = np.where(is_bounded, _min_p_bounds(rows), bounds)
    floors = np.where(is_bounded, np.float32(np.inf), floors)
    return bounds, floors, _reached(rows, floors)


def _reached(rows: Rows, floors: Logits) -> Floats:
    """Sum up the weights of logits from the floors [n] on by blocks, running sums [n, blocks]."""
    measured = rows.blocks.measure(rows.rows, rows.temperatures, floors)
    return np.cumsum(block_weights(measured, rows.peaks, rows.temperatures), axis=1)


def _min_p_bounds(rows: Rows) -> Logits:
    min_p = logarithm(np.maximum(rows.table["min_p"], np.finfo(np.float64).tiny))
    return np.asarray(rows.peaks + (min_p - SLACK) * rows.temperatures, dtype=np.float32)


def _bounds(rows: Rows) -> tuple[Logits, NDArray[np.bool_]]:
    """Bound rows by top_k, else by min_p or a guess at the nucleus's end; say which do for sure."""
    by_min_p, is_nucleus = _min_p_bounds(rows), rows.is_nucleus
    share = np.where(is_nucleus, _usual_shares(rows), 0.0)
    tail = np.minimum(logarithm(np.maximum(share, np.finfo(np.float64).tiny)), 0.0) - SLACK
    by_tail = np.asarray(rows.peaks + tail * rows.temperatures, dtype=np.float32)
    bounds = np.maximum(by_min_p, by_tail)
    limited = np.flatnonzero(rows.is_limited)
    if limited.size:
        counts = rows.table["top_k"][limited]
        maxima = rows.maxima[limited]
        bounds[limited] = largest_bounds(rows.blocks, rows.rows[limited], maxima, counts)
    return bounds, ~is_nucleus | (by_tail <= by_min_p)


def keep_until(found: Candidates, rows: Rows, weights: Floats, targets: Floats) -> Candidates:
    """Keep the fewest tokens of each row, best first, whose weights [M] reach the target [n]."""
    return found.keep(rows.blocks.best_until(found.sizes, found.logits, weights, targets))


def keep_top_k(found: Candidates, rows: Rows) -> Candidates:
    """Keep the top_k most probable tokens, ties by id."""
    if not rows.is_limited.any():
        return found
    counts = np.where(rows.is_limited, rows.table["top_k"], np.inf)
    return keep_until(found, rows, np.ones_like(found.weights), counts)


def keep_top_p(found: Candidates, rows: Rows) -> Candidates:
    """Keep the fewest tokens that reach top_p of what top_k has left (Holtzman et al. 2019)."""
    is_used = rows.table["top_p"] < 1
    if not is_used.any():
        return found
    totals = np.where(rows.is_limited, found.totals(found.weights), rows.totals)
    targets = np.where(is_used, rows.table["top_p"] * totals, np.inf)
    return keep_until(found, rows, found.weights, targets)


def keep_min_p(found: Candidates, rows: Rows) -> Candidates:
    """Keep the tokens at least min_p times as probable as the best (Nguyen et al. 2024)."""
    min_p = rows.table["min_p"]
    return found.keep(found.weights >= found.spread(min_p)) if (min_p > 0).any() else found


FILTERS: Final = (keep_top_k, keep_top_p, keep_min_p)
"""The order: each takes from what the one before it has left."""
