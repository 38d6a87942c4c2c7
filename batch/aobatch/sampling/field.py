"""The rows of a step that are drawn alike, and the mass of their vocabularies."""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Rows
from aobatch.sampling.rows import take_rows

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
