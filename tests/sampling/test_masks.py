"""Laws of rows that may choose some tokens alone: what a mask leaves out has logit -inf."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sampling_reference import logprobs
from sampling_strategies import VOCAB_SIZE, any_params, logit_rows, seeds, unhurried

from aobatch.arrays import Logits, TokenIds
from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.processors import Masks
from aobatch.sampling.sampler import Sampled, Sampler

ROWS, STEPS = 5, 3


def masks_of(rows: TokenIds, allowed: NDArray[np.bool_]) -> Masks:
    """Pack what rows may choose, [M, V], 32 tokens a word."""
    padded = np.pad(allowed, ((0, 0), (0, -allowed.shape[1] % 32)))
    return Masks(rows, np.packbits(padded, axis=1, bitorder="little").view(np.uint32))


@st.composite
def masked_rows(draw: st.DrawFn) -> tuple[TokenIds, NDArray[np.bool_]]:
    """Draw some rows of a step and what each of them may choose, one token at least."""
    rows = np.array(sorted(draw(st.sets(st.integers(0, ROWS - 1)))), dtype=np.int64)
    random = np.random.default_rng(draw(seeds))
    share = draw(st.sampled_from([0.01, 0.5, 0.99]))
    allowed = random.random((len(rows), VOCAB_SIZE)) < share
    allowed[:, 7] = True  # the one that `logit_rows` leaves possible
    return rows, allowed


def sampler_of(params: list[SamplingParams], mode: str) -> Sampler:
    """Give a sampler with a sequence a row."""
    sampler = Sampler(ROWS, VOCAB_SIZE, mode)  # type: ignore[arg-type]
    for row, wanted in enumerate(params):
        sampler.admit(row, wanted, stream_key(row), np.arange(row, 40))
    return sampler


@settings(unhurried, max_examples=25)
@given(
    logits=logit_rows(ROWS),
    params=st.lists(any_params, min_size=ROWS, max_size=ROWS),
    masked=masked_rows(),
)
def test_a_mask_is_a_logit_of_nothing(
    logits: Logits, params: list[SamplingParams], masked: tuple[TokenIds, NDArray[np.bool_]]
) -> None:
    """Tokens and processed logprobs are those of logits that are -inf where the mask says no."""
    rows, allowed = masked
    hidden = logits.copy()
    hidden[rows] = np.where(allowed, logits[rows], -np.inf)
    ours, plain = sampler_of(params, "processed"), sampler_of(params, "processed")
    for _ in range(STEPS):
        found = ours.sample(logits.copy(), masks=masks_of(rows, allowed))
        expected = plain.sample(hidden.copy())
        is_possible = found.is_finite

        assert found.token_ids.tolist() == expected.token_ids.tolist()
        np.testing.assert_array_equal(found.logprobs[is_possible], expected.logprobs[is_possible])
        np.testing.assert_array_equal(
            found.top_logprobs[is_possible], expected.top_logprobs[is_possible]
        )
        for row, possible in zip(rows, allowed, strict=True):
            assert possible[found.token_ids[row]] or not found.is_finite[row]


@settings(unhurried, max_examples=25)
@given(
    logits=logit_rows(ROWS),
    params=st.lists(any_params, min_size=ROWS, max_size=ROWS),
    masked=masked_rows(),
)
def test_raw_logprobs_know_no_mask(
    logits: Logits, params: list[SamplingParams], masked: tuple[TokenIds, NDArray[np.bool_]]
) -> None:
    """They are of the model's own distribution, and its logits are left to whoever scores them."""
    before = logits.copy()
    found = sampler_of(params, "raw").sample(logits, masks=masks_of(*masked))
    for row, wanted in enumerate(params):
        if wanted.num_logprobs is not None and found.is_finite[row]:
            expected = logprobs(before[row].tolist())[int(found.token_ids[row])]
            np.testing.assert_allclose(found.logprobs[row], expected, atol=1e-4)
    if any(wanted.num_logprobs is not None for wanted in params):
        np.testing.assert_array_equal(
            logits[[p.num_logprobs is not None for p in params]],
            before[[p.num_logprobs is not None for p in params]],
        )


def row_of(found: Sampled, row: int) -> tuple[object, ...]:
    """Give what a row reads of a step, comparable to the bit."""
    return int(found.token_ids[row]), found.logprobs[row].tobytes(), bool(found.is_finite[row])


@settings(deadline=None, max_examples=25)
@given(
    logits=logit_rows(ROWS),
    params=st.lists(any_params, min_size=ROWS, max_size=ROWS),
    masked=masked_rows(),
    mode=st.sampled_from(["raw", "processed"]),
)
def test_masked_row_among_others_is_the_row_alone(
    logits: Logits,
    params: list[SamplingParams],
    masked: tuple[TokenIds, NDArray[np.bool_]],
    mode: str,
) -> None:
    """Neither other rows nor their masks change a bit of a row."""
    rows, allowed = masked
    together = sampler_of(params, mode).sample(logits.copy(), masks=masks_of(rows, allowed))
    for row, wanted in enumerate(params):
        alone = Sampler(1, VOCAB_SIZE, mode)  # type: ignore[arg-type]
        alone.admit(0, wanted, stream_key(row), np.arange(row, 40))
        mine = np.flatnonzero(rows == row)
        mask = masks_of(np.zeros(len(mine), np.int64), allowed[mine])
        expected = alone.sample(logits[[row]].copy(), masks=mask)

        assert row_of(together, row) == row_of(expected, 0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_mask_that_leaves_nothing_is_told(temperature: float) -> None:
    """Where no allowed token has a finite logit the row is marked, and no other one is."""
    logits = np.float32([[1.0, -np.inf, 3.0], [1.0, -np.inf, 3.0]])
    sampler = Sampler(2, 3)
    for slot in range(2):
        sampler.admit(slot, SamplingParams(temperature), stream_key(slot), np.arange(0))
    allowed = np.array([[False, True, False], [True, True, False]])

    found = sampler.sample(logits, masks=masks_of(np.arange(2), allowed))

    assert found.is_finite.tolist() == [False, True]
    assert found.token_ids[1] == 0
