"""The law that a row's result depends on nothing but the row: the row alone is the oracle."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sampling_strategies import VOCAB_SIZE, any_params, logit_rows, seeds

from aobatch.arrays import Logits
from aobatch.sampling.columns import stream_key
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampled, Sampler

NUM_STEPS = 3
ROWS = 7


def bits(sampled: Sampled, row: int, params: SamplingParams) -> tuple[object, ...]:
    """Give all that a row may read of a step, comparable to the bit."""
    count = params.num_logprobs or 0
    return (
        int(sampled.token_ids[row]),
        sampled.logprobs[row].tobytes(),
        sampled.top_ids[row, :count].tolist(),
        sampled.top_logprobs[row, :count].tobytes(),
        bool(sampled.is_finite[row]),
    )


def admit(sampler: Sampler, slot: int, row: int, params: SamplingParams) -> None:
    """Begin the sequence of a row in a slot."""
    sampler.admit(slot, params, stream_key(row), np.arange(row, 40))


def alone(
    logits: Sequence[Logits], row: int, params: SamplingParams, mode: str
) -> list[tuple[object, ...]]:
    """Sample one row by itself, over the steps' logits [ROWS, V]."""
    sampler = Sampler(1, logits[0].shape[1], mode)  # type: ignore[arg-type]
    admit(sampler, 0, row, params)
    return [bits(sampler.sample(step[[row]]), 0, params) for step in logits]


@settings(deadline=None, max_examples=60)
@given(
    logits=st.lists(logit_rows(ROWS), min_size=NUM_STEPS, max_size=NUM_STEPS),
    params=st.lists(any_params, min_size=ROWS, max_size=ROWS),
    first_slot=st.integers(0, 3),
    mode=st.sampled_from(["raw", "processed"]),
)
def test_row_among_others_is_the_row_alone(
    logits: list[Logits], params: list[SamplingParams], first_slot: int, mode: str
) -> None:
    """Any mixture of rows, in any slots, gives each row its own bits, step after step."""
    sampler = Sampler(ROWS + 3, VOCAB_SIZE, mode)  # type: ignore[arg-type]
    for row in range(ROWS):
        admit(sampler, first_slot + row, row, params[row])
    steps = [sampler.sample(step.copy(), first_slot) for step in logits]

    for row in range(ROWS):
        together = [bits(sampled, row, params[row]) for sampled in steps]
        assert together == alone(logits, row, params[row], mode)


LARGE = {
    "plain": SamplingParams(num_logprobs=5),
    "warm": SamplingParams(temperature=0.7, num_logprobs=0),
    "nucleus": SamplingParams(top_p=0.9, num_logprobs=2),
    "long nucleus": SamplingParams(temperature=2.0, top_p=0.99, num_logprobs=2),
    "limited": SamplingParams(top_k=40, top_p=0.95, min_p=0.01),
    "wide": SamplingParams(top_k=3000, repetition_penalty=1.3, num_logprobs=20),
    "relative": SamplingParams(temperature=1.3, min_p=0.001),
}


@settings(deadline=None, max_examples=5)
@given(seed=seeds, order=st.permutations(list(LARGE)))
def test_large_rows_among_others_are_the_rows_alone(seed: int, order: list[str]) -> None:
    """In a large vocabulary, whose blocks and long found are worked on in chunks, it holds too."""
    random = np.random.default_rng(seed)
    logits = [random.normal(0, 3, (ROWS, 50_001)).astype(np.float32) for _ in range(2)]
    sampler = Sampler(ROWS, 50_001)
    for row, name in enumerate(order):
        admit(sampler, row, row, LARGE[name])
    steps = [sampler.sample(step.copy()) for step in logits]

    for row, name in enumerate(order):
        together = [bits(sampled, row, LARGE[name]) for sampled in steps]
        assert together == alone(logits, row, LARGE[name], "raw")


@settings(deadline=None, max_examples=30)
@given(logits=logit_rows(3), params=st.lists(any_params, min_size=3, max_size=3))
def test_move_keeps_the_law(logits: Logits, params: list[SamplingParams]) -> None:
    """A sequence that moves into a gap samples what it would have."""
    sampler = Sampler(3, VOCAB_SIZE)
    for row in range(3):
        admit(sampler, row, row, params[row])
    seen = [bits(sampler.sample(logits.copy()), 2, params[2])]
    sampler.move(2, 0)
    admit(sampler, 2, 0, params[0])
    seen += [bits(sampler.sample(logits[[2, 1, 0]]), 0, params[2]) for _ in range(2)]

    assert seen == alone([logits] * 3, 2, params[2], "raw")


@pytest.mark.parametrize("layout", ["columns first", "strided"])
def test_layout_of_the_logits_does_not_matter(layout: str) -> None:
    """Logits that are not contiguous give the same bits and are edited all the same."""
    logits = np.random.default_rng(8).normal(size=(ROWS, VOCAB_SIZE)).astype(np.float32)
    other = np.asfortranarray(logits) if layout == "columns first" else logits.repeat(2, 1)[:, ::2]
    params = SamplingParams(top_p=0.9, logit_bias=((3, 5.0),), num_logprobs=2)
    results = []
    for array in (logits, other):
        sampler = Sampler(ROWS, VOCAB_SIZE)
        for row in range(ROWS):
            admit(sampler, row, row, params)
        results.append(sampler.sample(array))

    for row in range(ROWS):
        assert bits(results[0], row, params) == bits(results[1], row, params)
