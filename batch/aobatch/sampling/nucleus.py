"""Which tokens a filtered draw is made from: top_k, top_p and min_p, one pure function each.

Nothing is sorted but what has to be: bounds on the logits pick a few candidates of each row, and
only the candidates around the end of what a filter keeps are put in order.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Table, take_rows

BLOCK: Final = 128
"""Tokens whose weights are added up before the draw looks at single ones."""

CHUNK: Final = 2**18
"""Logits that are worked on at a time, so that intermediate results stay in the cache."""


NUM_BINS: Final = 512
BINS_PER_NAT: Final = 16
"""Depths are told apart by 1/16 nat down to 32 nats, and put together below that."""

UNIT: Final = 2.0**-44
"""Running sums count in this part of the best token's weight."""

NUM_GROUPS: Final = 1024
"""Groups of logits of which only the largest is looked at, if top_k is not beyond half of them."""

USUAL_SHARE: Final = 512
"""Among tokens less probable than (1 - top_p) / 512 there is seldom one of the nucleus."""

STRIDE: Final = 32
"""Every 32nd token is looked at to tell how a long tail is spread."""

LONG_GROUP: Final = 2**19
"""Logits whose long nuclei are worked on at a time."""

CAUTION: Final = 0.75
"""The part of 1 - top_p that a tail judged by its sample may hold."""

SLACK: Final = 1e-3
"""Lowers bounds, in nats, by far more than rounding can raise them."""

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of a step with what their draw needs."""

    logits: Logits
    """After the processors, [n, V]."""
    peaks: Logits
    """The largest logit of each row, finite, [n]."""
    table: Table
    """The parameters, [n]."""
    sums: Floats
    """Weights exp((logit - peak) / temperature) summed by blocks, [n, blocks]; NaN if unused."""

    @property
    def temperatures(self) -> Floats:
        """The temperatures, [n]."""
        return np.asarray(self.table["temperature"], dtype=np.float64)

    @property
    def totals(self) -> Floats:
        """The weight of the whole vocabulary, [n], NaN if unused."""
        return np.asarray(self.sums.sum(axis=1))

    @property
    def is_limited(self) -> NDArray[np.bool_]:
        """Which rows have a top_k, [n]."""
        return np.asarray(self.table["top_k"] < self.logits.shape[1])

    @property
    def is_nucleus(self) -> NDArray[np.bool_]:
        """Which rows have a top_p that applies to the whole vocabulary, [n]."""
        return ~self.is_limited & (self.table["top_p"] < 1)

    def take(self, places: TokenIds) -> "Rows":
        """Take the rows at rising places."""
        return Rows(
            take_rows(self.logits, places),
            take_rows(self.peaks, places),
            take_rows(self.table, places),
            take_rows(self.sums, places),
        )


def gather(logits: Logits, peaks: Logits, table: Table, places: TokenIds) -> Rows:
    """Gather rows at places [n] of logits [B, V], with the sums that their way of drawing needs."""
    sums = np.full((len(places), -(-logits.shape[1] // BLOCK)), np.nan)
    rows = Rows(take_rows(logits, places), peaks[places], table[places], sums)
    summed = np.flatnonzero(rows.is_nucleus | ~rows.table["is_filtered"])
    part = rows.take(summed)
    sums[summed] = block_sums(part.logits, part.peaks, part.temperatures)
    return rows


def log_sum(peaks: Logits, sums: Floats) -> Floats:
    """Compute log(sum(exp(logits))) from the rows' peaks [n] and block sums [n, blocks]; [n]."""
    return np.asarray(peaks + np.log(sums.sum(axis=1)))


def block_sums(logits: Logits, peaks: Logits, temperatures: Floats) -> Floats:
    """Add up exp((logit - peak) / temperature) over blocks of the vocabulary, [n, blocks].

    The exponential is taken in float32 and summed in float64: a sum is right within 1e-6 of it.
    """
    num_rows, vocab_size = logits.shape
    sums = np.empty((num_rows, -(-vocab_size // BLOCK)))
    step = min(max(1, CHUNK // vocab_size), max(1, num_rows))
    scaled = np.empty((step, vocab_size), dtype=np.float32)
    # What is behind the vocabulary's end in the last block stays 0.
    weights = np.zeros((step, sums.shape[1] * BLOCK))
    for start in range(0, num_rows, step):
        part = slice(start, min(start + step, num_rows))
        used = slice(0, part.stop - start)
        np.subtract(logits[part], peaks[part, None], out=scaled[used])
        divisors = temperatures[part, None].astype(np.float32)
        if (divisors != 1).any():
            np.divide(scaled[used], divisors, out=scaled[used])
        np.exp(scaled[used], out=scaled[used])
        weights[used, :vocab_size] = scaled[used]
        blocks = weights[used].reshape(-1, sums.shape[1], BLOCK)
        np.einsum("rbw->rb", blocks, out=sums[part])
    return sums


@dataclass(frozen=True, slots=True)
class Candidates:
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
        """The place of each row's first token, [n]."""
        return np.asarray(np.cumsum(self.sizes) - self.sizes)

    @property
    def rows(self) -> TokenIds:
        """The row of each token, [M]."""
        return self.spread(np.arange(len(self.sizes)))

    def spread(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Repeat each row's value for its tokens, [M] from [n]."""
        return np.repeat(values, self.sizes)

    def totals(self, values: NDArray[Scalar]) -> NDArray[Scalar]:
        """Add up the tokens' values [M] for each row, [n]."""
        return np.asarray(np.add.reduceat(values, self.starts))

    def take(self, is_taken: NDArray[np.bool_]) -> "Candidates":
        """Take only the marked rows [n]."""
        if is_taken.all():
            return self
        kept = np.flatnonzero(self.spread(is_taken))
        return self._of(self.sizes[is_taken], kept)

    def keep(self, mask: NDArray[np.bool_]) -> "Candidates":
        """Keep the marked tokens, of which each row has one."""
        kept = np.flatnonzero(mask)
        return self._of(np.diff(np.searchsorted(kept, self.starts), append=len(kept)), kept)

    def _of(self, sizes: TokenIds, kept: TokenIds) -> "Candidates":
        return Candidates(sizes, self.ids[kept], self.depths[kept], self.weights[kept])


def pick(
    logits: Logits, bounds: Logits, peaks: Logits, temperatures: Floats, first: int = 0
) -> Candidates:
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
    return Candidates(sizes, places - np.repeat(starts, sizes), depths, np.exp(-depths))


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


def best_until(found: Candidates, weights: Floats, targets: Floats) -> NDArray[np.bool_]:
    """Mark in each row the fewest tokens, best first, whose weights [M] reach the target [n].

    The order is (depth, id). The best token always stays; all stay where they never reach it.
    Only the tokens in the narrow bin of depths in which the sum crosses the target are sorted.
    """
    num_rows = len(found.sizes)
    targets = np.maximum(targets, UNIT)
    bins = np.minimum(found.depths * BINS_PER_NAT, NUM_BINS - 1).astype(np.int64)
    flat = bins + found.spread(np.arange(num_rows) * NUM_BINS)
    sums = np.asarray(np.bincount(flat, weights, num_rows * NUM_BINS), dtype=np.float64)
    reached = np.cumsum(sums.reshape(num_rows, NUM_BINS), axis=1)
    # One past the last bin where they never reach it.
    crossing = np.count_nonzero(reached < targets[:, None], axis=1)
    before = reached[np.arange(num_rows), np.maximum(crossing - 1, 0)]
    before = np.where(crossing > 0, before, 0.0)

    limits = found.spread(crossing)
    mask = bins < limits
    edge = np.flatnonzero(bins == limits)
    rows = np.searchsorted(found.starts, edge, side="right") - 1
    edge = edge[np.lexsort((found.depths[edge], rows))]
    sizes = np.bincount(rows, minlength=num_rows)
    ahead = running_sums(weights[edge], sizes) - weights[edge]
    mask[edge] = before[rows] + ahead < targets[rows]
    return np.asarray(mask)


def largest_bounds(logits: Logits, counts: TokenIds) -> Logits:
    """Find for each row a logit [n] that at least counts[i] of its logits [n, V] reach.

    At least k numbers reach the k-th largest of group maxima, and with many groups few more do.
    """
    num_rows, vocab_size = logits.shape
    num_groups = min(vocab_size, max(NUM_GROUPS, 2 * int(counts.max(initial=0))))
    grouped = logits[:, : vocab_size // num_groups * num_groups]
    maxima = np.sort(grouped.reshape(num_rows, -1, num_groups).max(axis=1), axis=1)
    return np.asarray(maxima[np.arange(num_rows), num_groups - counts])


def filtered(rows: Rows) -> Iterator[tuple[TokenIds, Candidates]]:
    """Yield groups of rows, by their places [g], and what the filters leave of each."""
    for places, found in candidates(rows):
        part = rows.take(places)
        for keep in FILTERS:
            found = keep(found, part)
        yield places, found


def candidates(rows: Rows) -> Iterator[tuple[TokenIds, Candidates]]:
    """Pick all tokens that the filters could leave, and few others, by groups of rows.

    Rows whose nucleus is long come a few at a time, so that their many tokens stay in the cache.
    """
    found = _pick(rows, _usual_bounds(rows))
    is_long = _is_short(rows, found)
    if not is_long.all():
        yield np.flatnonzero(~is_long), found.take(~is_long)
    long = np.flatnonzero(is_long)
    step = max(1, LONG_GROUP // rows.logits.shape[1])
    for start in range(0, long.size, step):
        places = long[start : start + step]
        yield places, _long_candidates(rows.take(places))


def _long_candidates(rows: Rows) -> Candidates:
    bounds = _sampled_bounds(rows)
    found = _pick(rows, bounds)
    is_short = _is_short(rows, found)
    if is_short.any():
        found = _pick(rows, np.where(is_short, np.float32(-np.inf), bounds))
    return found


def _pick(rows: Rows, bounds: Logits) -> Candidates:
    return pick(rows.logits, bounds, rows.peaks, rows.temperatures)


def _is_short(rows: Rows, found: Candidates) -> NDArray[np.bool_]:
    """Find the rows [n] whose candidates end before their nucleus does."""
    targets = rows.table["top_p"] * rows.totals
    return np.asarray(rows.is_nucleus & (found.totals(found.weights) < targets))


def _usual_bounds(rows: Rows) -> Logits:
    """Bound by top_k, else by a guess at the end of the nucleus, else by min_p."""
    tiny = np.finfo(np.float64).tiny
    tail = np.log(np.maximum(1 - rows.table["top_p"], tiny) * rows.totals / USUAL_SHARE)
    min_p = np.log(np.maximum(rows.table["min_p"], tiny))
    nats = np.minimum(np.where(rows.is_nucleus, tail, min_p), 0.0) - SLACK
    bounds = np.asarray(rows.peaks + nats * rows.temperatures, dtype=np.float32)
    limited = np.flatnonzero(rows.is_limited)
    if limited.size:
        logits = take_rows(rows.logits, limited)
        bounds[limited] = largest_bounds(logits, rows.table["top_k"][limited])
    return bounds


def _sampled_bounds(rows: Rows) -> Logits:
    """Bound the rows, by a sample of each, where less than 1 - top_p of the mass lies below."""
    sample = np.sort(rows.logits[:, ::STRIDE], axis=1)
    depths = (rows.peaks[:, None] - sample) / rows.temperatures[:, None]
    below = np.cumsum(np.exp(-depths) * STRIDE, axis=1)
    allowed = CAUTION * (1 - rows.table["top_p"]) * rows.totals
    places = np.count_nonzero(below <= allowed[:, None], axis=1)
    return np.asarray(sample[np.arange(len(sample)), np.minimum(places, sample.shape[1] - 1)])


def keep_top_k(found: Candidates, rows: Rows) -> Candidates:
    """Keep the top_k most probable tokens, ties by id."""
    if not rows.is_limited.any():
        return found
    counts = np.where(rows.is_limited, rows.table["top_k"], np.inf)
    return found.keep(best_until(found, np.ones_like(found.weights), counts))


def keep_top_p(found: Candidates, rows: Rows) -> Candidates:
    """Keep the fewest tokens that reach top_p of what top_k has left (Holtzman et al. 2019)."""
    is_used = rows.table["top_p"] < 1
    if not is_used.any():
        return found
    totals = np.where(rows.is_limited, found.totals(found.weights), rows.totals)
    targets = np.where(is_used, rows.table["top_p"] * totals, np.inf)
    return found.keep(best_until(found, found.weights, targets))


def keep_min_p(found: Candidates, rows: Rows) -> Candidates:
    """Keep the tokens at least min_p times as probable as the best (Nguyen et al. 2024)."""
    min_p = rows.table["min_p"]
    return found.keep(found.weights >= found.spread(min_p)) if (min_p > 0).any() else found


FILTERS: Final = (keep_top_k, keep_top_p, keep_min_p)
"""The order: each takes from what the one before it has left."""
