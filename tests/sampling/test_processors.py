"""Laws of bias, bans and penalties; transformers and the slow reference are the oracles."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sampling_reference import processed
from sampling_strategies import VOCAB_SIZE, any_params, logit_rows, unhurried

from aobatch.sampling.columns import Columns
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.processors import process


@pytest.mark.parametrize("penalty", [1.2, 0.8])
def test_repetition_penalty_agrees_with_transformers(
    warpers: dict[str, NDArray[np.generic]], penalty: float
) -> None:
    """Over the same seen tokens, some of them twice, the logits are transformers' logits."""
    logits = warpers["logits"].copy()
    columns = Columns(*logits.shape)
    for slot, seen in enumerate(warpers["token_ids"]):
        columns.admit(slot, SamplingParams(repetition_penalty=penalty), seen)
    process(logits, columns, slice(0, len(logits)))

    np.testing.assert_allclose(logits, warpers[f"repetition_penalty_{penalty}"], rtol=3e-7)


@unhurried
@given(
    logits=logit_rows(2),
    params=st.tuples(any_params, any_params),
    prompt=st.lists(st.integers(0, VOCAB_SIZE - 1)),
    generated=st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=6),
)
def test_processors_agree_with_the_reference(
    logits: NDArray[np.float32],
    params: tuple[SamplingParams, SamplingParams],
    prompt: list[int],
    generated: list[int],
) -> None:
    """Any mixture of parameters and any history give each row the reference's logits."""
    columns = Columns(2, VOCAB_SIZE)
    for slot in range(2):
        columns.admit(slot, params[slot], np.array(prompt, dtype=np.int64))
    for token in generated:
        columns.record(slice(0, 2), np.array([token, token]))
    expected = [processed(logits[i].tolist(), params[i], prompt, generated) for i in range(2)]
    process(logits, columns, slice(0, 2))

    np.testing.assert_allclose(logits, np.array(expected), rtol=1e-6, atol=1e-5)


def test_undo_gives_the_same_bits_back() -> None:
    """Where one token is biased, banned and penalised at once, its raw logit comes back."""
    raw = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    columns = Columns(2, 50)
    every = tuple(range(50))
    params = SamplingParams(
        logit_bias=tuple((token, 0.3) for token in every),
        min_tokens=1,
        end_token_ids=every,
        repetition_penalty=1.3,
    )
    columns.admit(1, params, np.array(every))
    logits = raw.copy()
    edits = process(logits, columns, slice(0, 2))
    assert (logits[1] == -np.inf).all()

    edits.undo(logits)

    np.testing.assert_array_equal(logits, raw)


def test_neutral_values_change_nothing() -> None:
    """A row without wishes keeps its bits beside one that uses everything."""
    raw = np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)
    columns = Columns(2, 50)
    busy = SamplingParams(repetition_penalty=2.0, presence_penalty=1.0, logit_bias=((3, 1.0),))
    columns.admit(0, busy, np.arange(50))
    columns.admit(1, SamplingParams(), np.arange(50))
    columns.record(slice(0, 2), np.array([4, 4]))
    logits = raw.copy()
    process(logits, columns, slice(0, 2))

    assert (logits[0] != raw[0]).all()
    np.testing.assert_array_equal(logits[1], raw[1])
