"""Logits by blocks of 256 tokens: their maxima, and the sums of their exponentials.

The sampler looks at these instead of the vocabulary and opens the blocks that matter.
`aobatch.kernels.blocks` computes the same bits sooner.
"""

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Table
from aobatch.sampling.filters import (
    Drawn,
    Rows,
    blank_drawn,
    draw_among,
    lower_bounds,
    targets_of,
    usual_bounds,
)
from aobatch.sampling.processors import Masks
from aobatch.sampling.weights import LEAST, scales_of, weights_of

BLOCK: Final = 256
"""Neighbouring tokens that are looked at together."""

_CHUNK: Final = 256
"""Blocks that are worked on at a time, so that intermediate results stay in the cache."""

_READ: Final = 1024
"""Blocks that are copied, or opened for several rows, at a time."""


_LOOKS: Final = 3
"""How often candidates of a row are looked for, before it is taken as a whole: a bound may be too
large a number to be lowered by little."""


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

    def measure(self, rows: TokenIds, temperatures: Floats) -> Measured:
        """Measure the blocks of rows [n] at their temperatures [n].

        A temperature of 0 leaves a row's sums out, 0.
        """
        shape = len(rows), self.num_blocks
        maxima, sums = np.empty(shape, np.float32), np.zeros(shape, np.float32)
        scales, work = scales_of(temperatures), np.empty((2, _CHUNK, BLOCK), np.float32)
        for start in range(0, maxima.size, _CHUNK):
            part = slice(start, min(start + _CHUNK, maxima.size))
            places, blocks = np.divmod(np.arange(part.start, part.stop), self.num_blocks)
            logits = self.read(rows[places], blocks)
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

    def find(self, rows: TokenIds, maxima: Logits, bounds: Logits) -> Found:
        """Find the finite logits that reach a row's bound [n].

        Only blocks whose maxima [n, blocks] reach it are read.
        """
        bounds = np.maximum(bounds, LEAST)
        places, blocks = np.nonzero(maxima >= bounds[:, None])
        parts: list[Found] = []
        for start in range(0, max(1, len(places)), _READ):
            owners, opened = places[start : start + _READ], blocks[start : start + _READ]
            logits = self.read(rows[owners], opened)
            flat = np.flatnonzero(logits >= bounds[owners, None])
            pairs = flat // BLOCK
            ids = opened[pairs] * BLOCK + flat % BLOCK
            parts.append(Found(owners[pairs], ids, logits.reshape(-1)[flat]))
        return Found(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def draw(self, rows: Rows, uniforms: Floats) -> Drawn:
        """Draw one of the tokens that filters leave of each row [n], see `filters`."""
        bounds, drawn = self.bounds(rows), blank_drawn(len(uniforms))
        left, far = np.arange(len(uniforms)), np.zeros(len(uniforms), np.bool_)
        for _ in range(_LOOKS):
            missing = np.zeros(len(uniforms))
            for places in _groups(rows.maxima, bounds, left):
                part = rows.take(places)
                found = self.find(part.rows, part.maxima, bounds[places])
                parts, lacking = draw_among(*_side_by_side(found), part, uniforms[places])
                missing[places] = np.where(bounds[places] <= part.floors, 0.0, lacking)
                drawn.put(places, parts)
            left = np.flatnonzero(missing)
            bounds[left] = lower_bounds(rows.take(left), bounds[left], missing[left])
            far[left] = bounds[left] == LEAST
            left = left[~far[left]]
        far[left] = True
        blocks = np.arange(self.num_blocks)
        for places in np.flatnonzero(far)[:, None]:
            part = rows.take(places)
            logits = self.read(np.repeat(part.rows, len(blocks)), blocks).reshape(1, -1)
            drawn.put(places, draw_among(logits, None, part, uniforms[places])[0])
        return drawn

    def bounds(self, rows: Rows) -> Logits:
        """Bound the candidates of rows from below, [n]; a guess where top_p alone ends them."""
        bounds, limited = usual_bounds(rows), np.flatnonzero(rows.is_limited)
        if limited.size:
            part = rows.take(limited)
            counts = part.table["top_k"]
            bounds[limited] = largest_bounds(self, part.rows, part.maxima, counts)
        return bounds


BlocksOf = Callable[[Logits, Masks | None], Blocks]
"""What makes blocks of logits: `Blocks`, or one that gives the same bits sooner."""


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


def _groups(maxima: Logits, bounds: Logits, places: TokenIds) -> Iterator[TokenIds]:
    """Divide rows at places by how many blocks their bounds open."""
    opened = np.count_nonzero(maxima[places] >= bounds[places, None], axis=1)
    groups = np.cumsum(opened) // _READ
    for group in np.unique(groups):
        yield places[groups == group]


def _side_by_side(found: Found) -> tuple[Logits, TokenIds]:
    """Lay out what was found of rows, each of which has something, as rows: logits, ids, [n, K]."""
    sizes = np.bincount(found.places)
    columns = np.arange(len(found.ids)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    logits = np.full((len(sizes), sizes.max()), -np.inf, np.float32)
    ids = np.zeros(logits.shape, np.int64)
    logits[found.places, columns], ids[found.places, columns] = found.logits, found.ids
    return logits, ids


def block_weights(measured: Measured, peaks: Logits, temperatures: Floats) -> Floats:
    """Weigh blocks: exp((logit - the row's peak) / temperature) summed over each, [n, blocks]."""
    scales = scales_of(temperatures)[:, None]
    weights = weights_of(measured.maxima.copy(), peaks[:, None], scales)
    return weights.astype(np.float64) * measured.sums


def rows_of(blocks: Blocks, rows: TokenIds, peaks: Logits, table: Table, found: Measured) -> Rows:
    """Make rows out of what was measured of their blocks."""
    temperatures = np.asarray(table["temperature"], dtype=np.float64)
    reached = np.cumsum(block_weights(found, peaks, temperatures), axis=1)
    return Rows(rows, blocks.vocab_size, peaks, table, found.maxima, reached)


def draw_from_blocks(blocks: Blocks, rows: Rows, uniforms: Floats) -> TokenIds:
    """Draw one token of each whole row [n]: first a block, then a token in it."""
    places, uniforms = invert(rows.reached, uniforms)
    logits = blocks.read(rows.rows, places)
    peaks = rows.maxima[np.arange(len(places)), places]
    inside = weights_of(logits, peaks[:, None], scales_of(rows.temperatures)[:, None])
    columns, _ = invert(np.cumsum(inside, axis=1, dtype=np.float64), uniforms)
    return np.asarray(places * BLOCK + columns)


def invert(sums: Floats, uniforms: Floats) -> tuple[TokenIds, Floats]:
    """Find where the share uniforms[i] of running sums [n, K] is reached: column, rest.

    The rest [n] is how far into the column's own part it falls, 0..1.
    """
    every = np.arange(len(uniforms))
    targets = targets_of(uniforms, sums[:, -1])
    places = np.count_nonzero(sums <= targets[:, None], axis=1)
    before = np.where(places > 0, sums[every, np.maximum(places - 1, 0)], 0.0)
    rests = (targets - before) / (sums[every, places] - before)
    return places, np.clip(rests, 0.0, 1.0)


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
