"""Logits by blocks of 256 tokens: their maxima, and the sums of their exponentials.

The sampler looks at these instead of the vocabulary and opens the blocks that matter. Nothing here
leaves the order of additions, an exponential or a logarithm to the library, so that equal logits
give the same bits on every processor. `aobatch.kernels.blocks` computes the same bits sooner.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.processors import Masks

BLOCK: Final = 256
"""Neighbouring tokens that are looked at together."""

LOG2_E: Final = 1.4426950408889634
LOG_2: Final = 0.6931471805599453

_CHUNK: Final = 256
"""Blocks that are worked on at a time, so that intermediate results stay in the cache."""

_LINE: Final = 16
"""Logits that are taken together for a sample."""

_READ: Final = 1024
"""Blocks that are copied at a time."""

NUM_BINS: Final = 512
"""Parts of the range of a row's logits, of which one is sorted."""

SMALLEST_SPAN: Final = 1e-30
"""Stands for the range of logits that are all the same."""

UNIT: Final = 2.0**-44
"""Running sums count in this part of the best token's weight."""

LEAST: Final = np.finfo(np.float32).min
"""The smallest finite logit."""

_FLOOR: Final = np.float32(-127)
_ROUNDING: Final = np.float32(1.5 * 2**23)
"""Added to a float32 and taken off again, it leaves the nearest integer, whose bits it shows."""
_TERMS: Final = tuple(
    np.float32(term)
    for term in (
        1.326472731307149e-3,
        9.671512991189957e-3,
        5.550733581185341e-2,
        2.402224242687225e-1,
        6.931470036506653e-1,
        1.0,
    )
)
"""Of 2**x for |x| <= 1/2, the best of degree 5 that is 1 at 0: within 1.1e-7 of itself."""


def power_of_two(x: Logits, work: Logits | None = None) -> Logits:
    """Compute 2**x of float32 x <= 0, within 2e-7 of itself and 0 from -127 on; x is used up.

    The result is the first of two arrays like x, `work`, if these are given.
    """
    power, shifted = np.empty((2, *x.shape), np.float32) if work is None else work
    np.maximum(x, _FLOOR, out=x)
    np.add(x, _ROUNDING, out=shifted)
    np.subtract(shifted, _ROUNDING, out=power)
    x -= power
    np.multiply(x, _TERMS[0], out=power)
    for term in _TERMS[1:-1]:
        power += term
        power *= x
    power += _TERMS[-1]
    exponents = shifted.view(np.int32)
    exponents <<= 23
    bits = power.view(np.int32)
    bits += exponents
    return np.asarray(power)


def logarithm(x: Floats) -> Floats:
    """Compute the natural logarithm of float64 x > 0, by the series of the inverse tanh."""
    mantissas, exponents = np.frexp(x)
    is_low = mantissas < np.sqrt(0.5)
    mantissas = np.where(is_low, 2 * mantissas, mantissas)
    ratio = (mantissas - 1) / (mantissas + 1)
    square = ratio * ratio
    series = np.zeros_like(ratio)
    for odd in range(23, 0, -2):
        series = series * square + 1 / odd
    return np.asarray((exponents - is_low) * LOG_2 + 2 * ratio * series)


class Measured(NamedTuple):
    """What is known of some rows' blocks."""

    maxima: Logits
    """The largest logit of each block, [n, blocks], NaN if one is."""
    sums: Logits
    """exp((logit - the block's maximum) / temperature) summed over it, [n, blocks]."""


class Found(NamedTuple):
    """Logits that were looked for, in the order of rows and ids."""

    places: TokenIds
    """Places among the rows that were looked at, [M]."""
    ids: TokenIds
    """Token ids, [M]."""
    logits: Logits
    """Their logits, [M]."""


class Blocks:
    """The logits of a step by blocks of tokens, -inf where a mask allows none."""

    def __init__(self, logits: Logits, masks: Masks | None = None) -> None:
        """Read logits [B, V], which may change until they are read."""
        num_rows, vocab_size = logits.shape
        self.logits = logits
        self.masks = masks
        self.num_blocks = -(-vocab_size // BLOCK)
        row_step, step = logits.strides
        self._num_full = vocab_size // BLOCK
        # A view; what is left behind the last whole block is read apart.
        self._full = as_strided(
            logits, (num_rows, self._num_full, BLOCK), (row_step, BLOCK * step, step)
        )
        self.mask_places = np.full(num_rows, -1)
        """Which mask applies to a row, [B]; -1 where none does."""
        if masks is not None:
            self.mask_places[masks.rows] = np.arange(len(masks.rows))

    @property
    def vocab_size(self) -> int:
        """How many logits a row has."""
        return int(self.logits.shape[1])

    def read(self, rows: TokenIds, blocks: TokenIds) -> Logits:
        """Copy blocks[i] of rows[i], [M, 256]; -inf behind the vocabulary's end."""
        at_end = np.flatnonzero(blocks == self._num_full)
        if at_end.size:
            found = np.full((len(rows), BLOCK), -np.inf, dtype=np.float32)
            inside = np.flatnonzero(blocks < self._num_full)
            found[inside] = self._full[rows[inside], blocks[inside]]
            rest = self.logits[rows[at_end], self._num_full * BLOCK :]
            found[at_end, : rest.shape[1]] = rest
        else:
            found = self._full[rows, blocks]
        if self.masks is not None:
            masked = np.flatnonzero(self.mask_places[rows] >= 0)
            places, first = self.mask_places[rows[masked]], blocks[masked] * BLOCK
            is_allowed = self.masks.allow(places[:, None], first[:, None] + np.arange(BLOCK))
            found[masked] = np.where(is_allowed, found[masked], -np.inf)
        return found

    def sample(self, rows: TokenIds, size: int) -> tuple[Logits, float]:
        """Copy about `size` logits of each row, [n, S], evenly spread; V / S as well.

        They lie 16 together, which a processor reads at once.
        """
        lines = self.vocab_size // _LINE
        step = max(1, self.vocab_size // size)
        ids = np.arange(0, max(1, lines), step)[:, None] * _LINE + np.arange(_LINE)
        ids = np.minimum(ids.reshape(-1), self.vocab_size - 1)
        found = self.logits[rows[:, None], ids]
        if self.masks is not None:
            masked = np.flatnonzero(self.mask_places[rows] >= 0)
            is_allowed = self.masks.allow(self.mask_places[rows[masked], None], ids)
            found[masked] = np.where(is_allowed, found[masked], -np.inf)
        return found, self.vocab_size / ids.size

    def measure(
        self, rows: TokenIds, temperatures: Floats, floors: Logits | None = None
    ) -> Measured:
        """Measure the blocks of rows [n] at their temperatures [n].

        A temperature of 0 leaves a row's sums out, 0. Logits under the floors [n] count as -inf.
        """
        shape = len(rows), self.num_blocks
        maxima, sums = np.empty(shape, np.float32), np.zeros(shape, np.float32)
        scales, work = scales_of(temperatures), np.empty((2, _CHUNK, BLOCK), np.float32)
        for start in range(0, maxima.size, _CHUNK):
            part = slice(start, min(start + _CHUNK, maxima.size))
            places, blocks = np.divmod(np.arange(part.start, part.stop), self.num_blocks)
            logits = self.read(rows[places], blocks)
            if floors is not None:
                logits[logits < floors[places, None]] = -np.inf
            peaks = logits.max(axis=1)
            maxima.reshape(-1)[part] = peaks
            if temperatures[places].any():
                room = work[:, : len(places)]
                sums.reshape(-1)[part] = _fold(
                    weights_of(logits, peaks[:, None], scales[places, None], room)
                )
        sums[temperatures == 0] = 0.0
        return Measured(maxima, sums)

    def best(self, rows: TokenIds) -> TokenIds:
        """Find the largest logit of rows [n] without masks, the first of equals; their ids, [n]."""
        found = [self.logits[row].argmax() for row in rows]
        return np.array(found, np.int64)

    def find(
        self, rows: TokenIds, maxima: Logits, bounds: Logits, ceilings: Logits | None = None
    ) -> Found:
        """Find the finite logits that reach a row's bound [n], and are under its ceiling [n].

        Only blocks whose maxima [n, blocks] reach it are read.
        """
        bounds = np.maximum(bounds, LEAST)
        places, blocks = np.nonzero(maxima >= bounds[:, None])
        parts: list[Found] = []
        for start in range(0, max(1, len(places)), _READ):
            owners, opened = places[start : start + _READ], blocks[start : start + _READ]
            logits = self.read(rows[owners], opened)
            is_found = logits >= bounds[owners, None]
            if ceilings is not None:
                is_found &= logits < ceilings[owners, None]
            flat = np.flatnonzero(is_found)
            pairs = flat // BLOCK
            ids = opened[pairs] * BLOCK + flat % BLOCK
            parts.append(Found(owners[pairs], ids, logits.reshape(-1)[flat]))
        return Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def weigh(self, logits: Logits, sizes: TokenIds, peaks: Logits, temperatures: Floats) -> Floats:
        """Compute exp((logit - peak) / temperature) of rows [n] of logits, of these sizes; [M]."""
        peaks, scales = np.repeat(peaks, sizes), np.repeat(scales_of(temperatures), sizes)
        return weights_of(logits.copy(), peaks, scales).astype(np.float64)

    def best_until(
        self, sizes: TokenIds, logits: Logits, weights: Floats, targets: Floats
    ) -> NDArray[np.bool_]:
        """Mark the fewest of each row, best first, whose weights [M] reach the target [n]; [M].

        The order is (-logit, place); each row has a logit. The best one always stays; all stay
        where they never reach it. Only those in the bin of logits in which the sum crosses it are
        sorted.
        """
        num_rows, starts = len(sizes), np.cumsum(sizes) - sizes
        targets = np.maximum(targets, UNIT)
        most = np.maximum.reduceat(logits, starts)
        spans = most - np.minimum.reduceat(logits, starts)
        rates = np.float32(NUM_BINS - 1) / np.maximum(spans, np.float32(SMALLEST_SPAN))
        bins = ((np.repeat(most, sizes) - logits) * np.repeat(rates, sizes)).astype(np.int64)
        flat = bins + np.repeat(np.arange(num_rows) * NUM_BINS, sizes)
        sums = np.asarray(np.bincount(flat, weights, num_rows * NUM_BINS), dtype=np.float64)
        reached = np.cumsum(sums.reshape(num_rows, NUM_BINS), axis=1)
        # One past the last bin where they never reach it.
        crossing = np.count_nonzero(reached < targets[:, None], axis=1)
        before = reached[np.arange(num_rows), np.maximum(crossing - 1, 0)]
        before = np.where(crossing > 0, before, 0.0)

        limits = np.repeat(crossing, sizes)
        mask = bins < limits
        edge = np.flatnonzero(bins == limits)
        rows = np.searchsorted(starts, edge, side="right") - 1
        edge = edge[np.lexsort((-logits[edge], rows))]
        ahead = running_sums(weights[edge], np.bincount(rows, minlength=num_rows)) - weights[edge]
        mask[edge] = before[rows] + ahead < targets[rows]
        return np.asarray(mask)


BlocksOf = Callable[[Logits, Masks | None], Blocks]
"""What makes blocks of logits: `Blocks`, or one that gives the same bits sooner."""


def scales_of(temperatures: Floats) -> Logits:
    """Say by what differences of logits are multiplied to be exponents of two, [n]."""
    safe = np.where(temperatures > 0, temperatures, 1.0)
    return np.where(temperatures > 0, LOG2_E / safe, 0.0).astype(np.float32)


def weights_of(logits: Logits, peaks: Logits, scales: Logits, work: Logits | None = None) -> Logits:
    """Compute exp((logit - peak) / temperature) of rows of logits, which are used up.

    All are broadcast against each other; `work` is that of `power_of_two`.
    """
    logits -= np.where(np.isneginf(peaks), 0, peaks)
    logits *= scales
    return power_of_two(logits, work)


def _fold(weights: Logits) -> Logits:
    """Add up blocks [M, 256], half to half until one number is left; [M]."""
    half = BLOCK // 2
    while half >= 16:
        weights = weights[:, :half] + weights[:, half : 2 * half]
        half //= 2
    # What is left is short: columns are added as rows.
    columns = np.ascontiguousarray(weights.T)
    while half:
        columns = columns[:half] + columns[half : 2 * half]
        half //= 2
    return np.asarray(columns[0])


def block_weights(measured: Measured, peaks: Logits, temperatures: Floats) -> Floats:
    """Weigh blocks: exp((logit - the row's peak) / temperature) summed over each, [n, blocks]."""
    scales = scales_of(temperatures)[:, None]
    weights = weights_of(measured.maxima.copy(), peaks[:, None], scales)
    return weights.astype(np.float64) * measured.sums


def largest_bounds(blocks: Blocks, rows: TokenIds, maxima: Logits, counts: TokenIds) -> Logits:
    """Find for each row a logit [n] that at least counts[i] of its finite logits reach, if so many.

    At least k numbers reach the k-th largest maximum of groups, and with many groups few more do.
    The groups are the blocks, with maxima [n, blocks], or parts of them where top_k is large.
    """
    num_blocks = blocks.num_blocks
    places = np.maximum(num_blocks - counts, 0)
    bounds = np.sort(maxima, axis=1)[np.arange(len(rows)), places]
    for place in np.flatnonzero(2 * counts > num_blocks):
        logits = blocks.read(np.full(num_blocks, rows[place]), np.arange(num_blocks))
        size = BLOCK
        while size > 1 and logits.size < 2 * int(counts[place]) * size:
            size //= 2
        groups = np.sort(logits.reshape(-1, size).max(axis=1))
        bounds[place] = groups[max(0, len(groups) - int(counts[place]))]
    return np.asarray(bounds)


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
