"""What takes tokens out of the draw, one pure function a parameter."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Rows, take_rows

BLOCK: Final = 128
"""Tokens whose weights are added up before the draw looks at single ones."""

CHUNK: Final = 2**18
"""Logits that are worked on at a time, so that intermediate results stay in the cache."""


@dataclass(frozen=True, slots=True)
class Field:
    """Some rows with what their draw needs."""

    logits: Logits
    """After the processors, [n, V]."""

    peaks: Logits
    """The largest logit of each row, finite, [n]."""

    table: Rows
    """The parameters, [n]."""

    sums: Floats
    """Weights exp((logit - peak) / temperature) summed by blocks, [n, blocks]; NaN if unused."""

    @property
    def temperatures(self) -> Floats:
        """Give the temperatures, [n]."""
        return np.asarray(self.table["temperature"], dtype=np.float64)

    @property
    def totals(self) -> Floats:
        """Give the weight of the whole vocabulary, [n], NaN if unused."""
        return np.asarray(self.sums.sum(axis=1))

    @property
    def log_sums(self) -> Floats:
        """Give log(sum(exp(logits))), [n], for rows of temperature 1, NaN if unused."""
        return log_sum(self.peaks, self.sums)

    @property
    def is_limited(self) -> NDArray[np.bool_]:
        """Tell which rows have a top_k, [n]."""
        return np.asarray(self.table["top_k"] < self.logits.shape[1])

    @property
    def is_nucleus(self) -> NDArray[np.bool_]:
        """Tell which rows have a top_p that applies to the whole vocabulary, [n]."""
        return ~self.is_limited & (self.table["top_p"] < 1)

    def take(self, rows: TokenIds) -> "Field":
        """Take some of the rows, by their places."""
        return Field(
            take_rows(self.logits, rows),
            take_rows(self.peaks, rows),
            take_rows(self.table, rows),
            take_rows(self.sums, rows),
        )


def gather(logits: Logits, peaks: Logits, table: Rows, rows: TokenIds) -> Field:
    """Gather some rows [n] of logits [B, V], with the sums that their way of drawing needs."""
    sums = np.full((len(rows), -(-logits.shape[1] // BLOCK)), np.nan)
    field = Field(take_rows(logits, rows), peaks[rows], table[rows], sums)
    summed = np.flatnonzero(field.is_nucleus | ~field.table["is_filtered"])
    part = field.take(summed)
    sums[summed] = block_sums(part.logits, part.peaks, part.temperatures)
    return field


def log_sum(peaks: Logits, sums: Floats) -> Floats:
    """Give log(sum(exp(logits))) from the rows' peaks [n] and block sums [n, blocks]; [n]."""
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


NUM_GROUPS: Final = 1024
"""Groups of logits of which only the largest is looked at, if top_k is not beyond half of them."""

USUAL_HEAD: Final = 512
"""Among tokens less probable than (1 - top_p) / 512 there is seldom one of the nucleus."""

STRIDE: Final = 32
"""Every 32nd token is looked at to tell how a long tail is spread."""

LONG_GROUP: Final = 2**19
"""Logits whose long heads are worked on at a time."""

CAUTION: Final = 0.75
"""The part of 1 - top_p that a tail judged by its sample may hold."""

SLACK: Final = 1e-3
"""Lowers bounds, in nats, by far more than rounding can raise them."""


def largest_bounds(logits: Logits, counts: TokenIds) -> Logits:
    """Give for each row a logit [n] that at least counts[i] of its logits [n, V] reach.

    At least k numbers reach the k-th largest of group maxima, and with many groups few more do.
    """
    num_rows, vocab_size = logits.shape
    num_groups = min(vocab_size, max(NUM_GROUPS, 2 * int(counts.max(initial=0))))
    grouped = logits[:, : vocab_size // num_groups * num_groups]
    maxima = np.sort(grouped.reshape(num_rows, -1, num_groups).max(axis=1), axis=1)
    return np.asarray(maxima[np.arange(num_rows), num_groups - counts])


def candidates(field: Field) -> Iterator[tuple[TokenIds, Heads]]:
    """Pick all tokens that the filters could leave, and few others, by groups of rows.

    A group is the places of its rows in the field, [g], and their heads. Rows whose nucleus is
    long come a few at a time, so that their many tokens stay in the cache.
    """
    heads = _pick(field, _usual_bounds(field))
    is_long = _is_short(field, heads)
    if not is_long.all():
        yield np.flatnonzero(~is_long), heads.take(~is_long)
    long = np.flatnonzero(is_long)
    step = max(1, LONG_GROUP // field.logits.shape[1])
    for start in range(0, long.size, step):
        rows = long[start : start + step]
        yield rows, _long_heads(field.take(rows))


def _long_heads(field: Field) -> Heads:
    bounds = _sampled_bounds(field)
    heads = _pick(field, bounds)
    is_short = _is_short(field, heads)
    if is_short.any():
        heads = _pick(field, np.where(is_short, np.float32(-np.inf), bounds))
    return heads


def _pick(field: Field, bounds: Logits) -> Heads:
    return pick(field.logits, bounds, field.peaks, field.temperatures)


def _is_short(field: Field, heads: Heads) -> NDArray[np.bool_]:
    """Tell which heads [n] end before the nucleus does."""
    targets = field.table["top_p"] * field.totals
    return np.asarray(field.is_nucleus & (heads.totals(heads.weights) < targets))


def _usual_bounds(field: Field) -> Logits:
    """Bound by top_k, else by a guess at the end of the nucleus, else by min_p."""
    tiny = np.finfo(np.float64).tiny
    tail = np.log(np.maximum(1 - field.table["top_p"], tiny) * field.totals / USUAL_HEAD)
    min_p = np.log(np.maximum(field.table["min_p"], tiny))
    nats = np.minimum(np.where(field.is_nucleus, tail, min_p), 0.0) - SLACK
    bounds = np.asarray(field.peaks + nats * field.temperatures, dtype=np.float32)
    limited = np.flatnonzero(field.is_limited)
    if limited.size:
        logits = take_rows(field.logits, limited)
        bounds[limited] = largest_bounds(logits, field.table["top_k"][limited])
    return bounds


def _sampled_bounds(field: Field) -> Logits:
    """Bound the rows, by a sample of each, where less than 1 - top_p of the mass lies below."""
    sample = np.sort(field.logits[:, ::STRIDE], axis=1)
    depths = (field.peaks[:, None] - sample) / field.temperatures[:, None]
    below = np.cumsum(np.exp(-depths) * STRIDE, axis=1)
    allowed = CAUTION * (1 - field.table["top_p"]) * field.totals
    places = np.count_nonzero(below <= allowed[:, None], axis=1)
    bounds = sample[np.arange(len(sample)), np.minimum(places, sample.shape[1] - 1)]
    return np.asarray(bounds)


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
