"""Laws of the draw; the plain cumulative sum is the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sampling_reference import distribution
from sampling_strategies import logit_rows, unhurried

from aobatch.kernels.blocks import fastest_blocks
from aobatch.sampling.blocks import Blocks, BlocksOf, invert
from aobatch.sampling.columns import ROW, stream_key, uniforms_of
from aobatch.sampling.filters import Rows, draw_among
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

LAST = 1 - 2.0**-53
"""The largest number that a stream gives."""


@pytest.mark.parametrize(
    ("uniform", "column"),
    [(0.0, 1), (0.1, 1), (0.25, 3), (0.26, 3), (0.4999, 3), (0.5, 4), (LAST, 4), (1.0, 4)],
)
def test_invert_never_meets_a_weight_of_zero(uniform: float, column: int) -> None:
    """Each number finds its column, also at the borders and at both ends."""
    sums = np.cumsum([[0.0, 1.0, 0.0, 1.0, 2.0, 0.0]], axis=1)

    columns, rests = invert(sums, np.array([uniform]))

    assert columns.tolist() == [column]
    assert 0 <= rests[0] <= 1


@pytest.mark.parametrize(
    ("uniform", "token"), [(0.0, 20), (0.249, 20), (0.25, 40), (0.5, 50), (LAST, 50)]
)
def test_draw_among_never_meets_a_weight_of_zero(uniform: float, token: int) -> None:
    """Each number finds its token, in a row between others, whatever fills these up."""
    ids = np.array([[7, 0, 0, 0, 0, 0], [10, 20, 30, 40, 50, 60], [8, 9, 0, 0, 0, 0]])
    weights = np.float32([[1, 0, 0, 0, 0, 0], [0, 1, 0, 1, 2, 0], [0.5, 1, 0, 0, 0, 0]])
    with np.errstate(divide="ignore"):
        logits = np.log(weights)
    table = np.zeros(3, ROW)
    table["temperature"], table["top_p"], table["top_k"] = 1.0, 1.0, 99
    peaks = logits.max(axis=1)
    rows = Rows(np.arange(3), 100, peaks, table, peaks[:, None], np.ones((3, 1)))

    drawn, missing = draw_among(logits, ids, rows, np.array([0.9, uniform, 0.1]))

    assert drawn.token_ids.tolist() == [7, token, 8]
    assert not missing.any()


@unhurried
@given(
    logits=logit_rows(1),
    params=st.sampled_from(
        [
            SamplingParams(),
            SamplingParams(temperature=2.0),
            SamplingParams(temperature=0.3, top_k=200),
            SamplingParams(min_p=0.01),
        ]
    ),
    key=st.integers(0, 999).map(stream_key),
)
def test_token_is_where_the_sum_passes_the_uniform_number(
    logits: NDArray[np.float32], params: SamplingParams, key: bytes
) -> None:
    """Three draws are the inverse of the distribution function at the stream's numbers."""
    sampler = Sampler(1, logits.shape[1])
    sampler.admit(0, params, key, np.array([], dtype=np.int64))
    probabilities, _ = distribution(logits[0].tolist(), params)
    sums = np.append(0.0, np.cumsum(probabilities))
    for uniform in uniforms_of(key, 0, 3):
        token = sampler.sample(logits).token_ids[0]

        assert probabilities[token] > 0
        assert sums[token] - 1e-6 <= uniform <= sums[token + 1] + 1e-6


def test_lowest_temperature_draws_without_overflow() -> None:
    """At 1e-5 far logits weigh nothing, equal best ones share, and nothing warns."""
    logits = np.tile(np.float32([-1e38, 3.0, 3.0, 2.9, -np.inf, 0.0]), (64, 1))
    sampler = Sampler(64, 6)
    for slot in range(64):
        sampler.admit(slot, SamplingParams(temperature=1e-5), stream_key(slot), np.array([1]))

    sampled = sampler.sample(logits)

    assert set(sampled.token_ids.tolist()) == {1, 2}


@pytest.mark.parametrize("blocks_of", [Blocks, fastest_blocks()])
@pytest.mark.parametrize("offset", [0.0, 100.0, -1e6, 3e37])
@pytest.mark.parametrize("temperature", [1e-5, 1.0, 2.0])
def test_filtered_draw_ends_whatever_the_size_of_logits(
    blocks_of: BlocksOf, offset: float, temperature: float
) -> None:
    """Also where a bound is too large to be lowered by little, and where differences overflow."""
    logits = (np.random.default_rng(0).normal(0, 1e-5, (4, 5000)) + offset).astype(np.float32)
    logits[1] += np.random.default_rng(1).normal(0, 3, 5000).astype(np.float32)
    logits[2, ::7], logits[3] = -3.4e38, np.linspace(-3.4e38, 3.4e38, 5000)
    sampler = Sampler(4, 5000, blocks_of=blocks_of)
    for slot in range(4):
        wanted = SamplingParams(temperature, top_p=0.95)
        sampler.admit(slot, wanted, stream_key(slot), np.array([1]))

    sampled = sampler.sample(logits)

    assert sampled.is_finite.all()
    assert (np.isfinite(logits[np.arange(4), sampled.token_ids])).all()
    assert sampled.token_ids[3] == 4999
