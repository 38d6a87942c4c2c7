"""Logits that all tokens of interest reach, found without sorting the vocabulary."""

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.sampling.field import Field
from aobatch.sampling.heads import Heads, pick
from aobatch.sampling.rows import take_rows

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
