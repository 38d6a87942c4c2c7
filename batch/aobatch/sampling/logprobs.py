"""Log-probabilities of tokens, natural logarithm, float64."""

from typing import NamedTuple

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.blocks import Blocks, Measured, block_weights, largest_bounds
from aobatch.sampling.filters import Rows
from aobatch.sampling.weights import logarithm


class Scores(NamedTuple):
    """What the distributions of some rows say of a token and of the best ones."""

    logprobs: Floats
    """Logprob of the row's token, [n]."""
    top_ids: TokenIds
    """The most probable ids, [n, K], ties by id; meaningless where the logprob is -inf."""
    top_logprobs: Floats
    """Their logprobs, [n, K], falling, -inf where no further token is possible."""


def blank_scores(num_rows: int, width: int) -> Scores:
    """Make the scores of rows in which nothing is possible: -inf throughout, K = width."""
    return Scores(
        np.full(num_rows, -np.inf),
        np.zeros((num_rows, width), dtype=np.int64),
        np.full((num_rows, width), -np.inf),
    )


def log_sums_of(measured: Measured) -> Floats:
    """Compute log(sum(exp(logits))) of rows measured at temperature 1, [n]."""
    peaks = measured.maxima.max(axis=1)
    weights = block_weights(measured, peaks, np.ones(len(peaks)))
    return np.asarray(peaks + logarithm(np.cumsum(weights, axis=1)[:, -1]))


def score(blocks: Blocks, token_ids: TokenIds, counts: TokenIds) -> Scores:
    """Score token_ids[i] and the counts[i] most probable tokens under row i of n rows of logits.

    Each row has a finite maximum. K is the largest count, at most V; a row that asks for fewer
    reads its first ones.
    """
    every = np.arange(len(token_ids))
    measured = blocks.measure(every, np.ones(len(every)))
    return score_rows(blocks, every, measured, token_ids, counts)


def score_rows(
    blocks: Blocks, rows: TokenIds, measured: Measured, token_ids: TokenIds, counts: TokenIds
) -> Scores:
    """Score some rows [n], measured at temperature 1, as `score` does."""
    log_sums = log_sums_of(measured)
    width = int(np.clip(counts.max(initial=0), 0, blocks.vocab_size))
    logprobs = blocks.logits[rows, token_ids] - log_sums
    top_ids, top_logits = top_tokens(blocks, rows, measured.maxima, counts, width)
    return Scores(logprobs, top_ids, top_logits - log_sums[:, None])


def score_kept(
    blocks: Blocks,
    rows: Rows,
    totals: Floats,
    last: tuple[Logits, TokenIds],
    token_ids: TokenIds,
    counts: TokenIds,
) -> Scores:
    """Score rows by what filters have left: `totals` [n], down to the token `last`, (logit, id).

    Among the best tokens are none that could not have been drawn.
    """
    log_totals = logarithm(totals)
    width = int(np.clip(counts.max(initial=0), 0, rows.vocab_size))
    top_ids, top_logits = top_tokens(blocks, rows.rows, rows.maxima, counts, width)
    logits = np.column_stack([blocks.logits[rows.rows, token_ids], top_logits])
    depths = (rows.peaks[:, None] - logits) / rows.temperatures[:, None]
    logprobs = -depths - log_totals[:, None]
    least, last_id = (column[:, None] for column in last)
    is_left = (top_logits > least) | ((top_logits == least) & (top_ids <= last_id))
    return Scores(
        logprobs[:, 0],
        np.where(is_left, top_ids, 0),
        np.where(is_left, logprobs[:, 1:], -np.inf),
    )


def top_tokens(
    blocks: Blocks, rows: TokenIds, maxima: Logits, counts: TokenIds, width: int
) -> tuple[TokenIds, Floats]:
    """Find the ids and logits [n, width] of the largest logits, falling, ties by id.

    A row is given none if its count is 0; what is left is id 0 at -inf.
    """
    ids = np.zeros((len(rows), width), dtype=np.int64)
    logits = np.full((len(rows), width), -np.inf)
    asking = np.flatnonzero(counts > 0)
    if not asking.size:
        return ids, logits
    bounds = largest_bounds(blocks, rows[asking], maxima[asking], np.full(asking.size, width))
    owners, found, values = blocks.find(rows[asking], maxima[asking], bounds)
    order = np.lexsort((-values, owners))
    sizes = np.bincount(owners, minlength=asking.size)
    ranks = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    best = order[ranks < width]
    places = asking[owners[best]], ranks[ranks < width]
    ids[places], logits[places] = found[best], values[best]
    return ids, logits
