"""One uniform number a row turned into one token, by the inverse of the distribution function."""

import numpy as np

from aobatch.arrays import Floats, TokenIds
from aobatch.sampling.field import BLOCK, Field
from aobatch.sampling.heads import Heads, running_sums


def draw_from_all(field: Field, uniforms: Floats) -> TokenIds:
    """Draw from the whole vocabulary: first a block by its sum, then a token in it, [n]."""
    every = np.arange(len(uniforms))
    blocks, uniforms = invert(field.sums, uniforms)
    ids = blocks[:, None] * BLOCK + np.arange(BLOCK)
    last = field.logits.shape[1] - 1
    logits = field.logits[every[:, None], np.minimum(ids, last)].astype(np.float64)
    depths = (field.peaks[:, None] - logits) / field.temperatures[:, None]
    places, _ = invert(np.exp(-depths) * (ids <= last), uniforms)
    return np.asarray(ids[every, places])


def draw_from_heads(heads: Heads, uniforms: Floats) -> TokenIds:
    """Draw one of the tokens that are left in each row, [n]."""
    sums = running_sums(heads.weights, heads.sizes)
    ends = heads.starts + heads.sizes
    targets = _targets(uniforms, sums[ends - 1])
    passed = heads.totals((sums <= heads.spread(targets)).astype(np.int64))
    return np.asarray(heads.ids[heads.starts + passed])


def invert(weights: Floats, uniforms: Floats) -> tuple[TokenIds, Floats]:
    """Find where the share uniforms[i] of the sum of weights [n, K] is reached: column, rest.

    The rest [n] is how far into the column's own weight it falls, 0..1.
    """
    every = np.arange(len(uniforms))
    sums = np.cumsum(weights, axis=1)
    targets = _targets(uniforms, sums[:, -1])
    places = np.count_nonzero(sums <= targets[:, None], axis=1)
    chosen = weights[every, places]
    rests = (targets - (sums[every, places] - chosen)) / chosen
    return places, np.clip(rests, 0.0, 1.0)


def _targets(uniforms: Floats, totals: Floats) -> Floats:
    # Under the total even for a rest of 1, so that a weight of 0 is never met.
    return np.minimum(uniforms * totals, np.nextafter(totals, 0.0))
