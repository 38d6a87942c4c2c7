"""Log-probabilities of tokens, natural logarithm, float64."""

from typing import NamedTuple

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import take_rows
from aobatch.sampling.nucleus import block_sums, largest_bounds, log_sum, pick


class Scores(NamedTuple):
    """What the distributions of some rows say of a token and of the best ones."""

    logprobs: Floats
    """Logprob of the row's token, [n]."""
    top_ids: TokenIds
    """The most probable ids, [n, K], ties by id."""
    top_logprobs: Floats
    """Their logprobs, [n, K], falling."""


def blank_scores(num_rows: int, width: int) -> Scores:
    """Make the scores of rows in which nothing is possible: -inf throughout, K = width."""
    return Scores(
        np.full(num_rows, -np.inf),
        np.tile(np.arange(width), (num_rows, 1)),
        np.full((num_rows, width), -np.inf),
    )


def score(logits: Logits, log_sums: Floats, token_ids: TokenIds, counts: TokenIds) -> Scores:
    """Score token_ids[i] and the counts[i] most probable tokens under row i of logits [n, V].

    Each row has a finite maximum; log_sums [n] are log(sum(exp(row))), NaN where not yet known.
    K is the largest count, at most V; a row that asks for fewer reads its first ones.
    """
    peaks = logits.max(axis=1)
    unknown = np.flatnonzero(np.isnan(log_sums))
    if unknown.size:
        sums = block_sums(take_rows(logits, unknown), peaks[unknown], np.ones(unknown.size))
        log_sums = log_sums.copy()
        log_sums[unknown] = log_sum(peaks[unknown], sums)

    scores = blank_scores(len(logits), int(np.clip(counts.max(initial=0), 0, logits.shape[1])))
    scores.logprobs[:] = logits[np.arange(len(logits)), token_ids] - log_sums
    rows = np.flatnonzero(counts > 0)
    if rows.size:
        top_ids, top_logits = _top_tokens(
            take_rows(logits, rows), peaks[rows], scores.top_ids.shape[1]
        )
        scores.top_ids[rows] = top_ids
        scores.top_logprobs[rows] = top_logits - log_sums[rows, None]
    return scores


def _top_tokens(logits: Logits, peaks: Logits, count: int) -> tuple[TokenIds, Floats]:
    """Find the ids and logits [n, count] of the largest logits, falling, ties by id."""
    every = np.arange(len(logits))
    bounds = largest_bounds(logits, np.full(len(logits), count))
    # Where fewer are finite, the first ids of -inf follow: they are among the first 2 * count.
    found = pick(logits, bounds, peaks, np.ones(len(logits)), first=2 * count)
    order = np.lexsort((found.depths, found.rows))
    ids = found.ids[order[found.starts[:, None] + np.arange(count)]]
    return ids, logits[every[:, None], ids].astype(np.float64)
