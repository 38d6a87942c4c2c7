"""Laws of a whole step and of several."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sampling_reference import distribution, processed
from sampling_strategies import VOCAB_SIZE, any_params, logit_rows, unhurried

from aobatch.arrays import Logits
from aobatch.sampling.columns import stream_key, uniforms_of
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.sampler import Sampler

NOTHING = np.array([], dtype=np.int64)
GREEDY = SamplingParams(temperature=0.0)


def one(params: SamplingParams, vocab_size: int, prompt: NDArray[np.int64] = NOTHING) -> Sampler:
    """Give a sampler with one sequence."""
    sampler = Sampler(1, vocab_size)
    sampler.admit(0, params, stream_key(0), prompt)
    return sampler


@unhurried
@given(logits=logit_rows(1), params=any_params, prompt=st.lists(st.integers(0, VOCAB_SIZE - 1)))
def test_every_step_agrees_with_the_reference(
    logits: Logits, params: SamplingParams, prompt: list[int]
) -> None:
    """Over steps, with the history that they make, each token is the reference's."""
    sampler = one(params, VOCAB_SIZE, np.array(prompt, dtype=np.int64))
    generated: list[int] = []
    for uniform in uniforms_of(stream_key(0), 0, 4):
        values = processed(logits[0].tolist(), params, prompt, generated)
        token = int(sampler.sample(logits).token_ids[0])
        if params.is_greedy:
            assert values[token] >= max(values) - 1e-5
        elif max(values) > -np.inf:
            probabilities, margin = distribution(values, params)
            sums = np.append(0.0, np.cumsum(probabilities))
            is_between = sums[token] - 1e-5 <= uniform <= sums[token + 1] + 1e-5
            assert margin < 1e-6 or is_between
        generated.append(token)


def test_greedy_takes_the_lowest_id_of_equals() -> None:
    """Ties go to the lowest id, before and after a change of logits."""
    logits = np.float32([[0.0, 2.0, 3.0, 3.0, 3.0]])
    biased = SamplingParams(temperature=0.0, logit_bias=((1, 1.0),))

    assert one(GREEDY, 5).sample(logits).token_ids[0] == 2
    assert one(biased, 5).sample(logits).token_ids[0] == 1


def test_penalties_act_on_greedy_as_tokens_come() -> None:
    """Each repetition costs; the counts follow the tokens over several steps."""
    logits = np.float32([[3.0, 2.5, 0.0]])
    frequency = SamplingParams(temperature=0.0, frequency_penalty=1.0)
    presence = SamplingParams(temperature=0.0, presence_penalty=1.0)
    for params, tokens in ((frequency, [0, 1, 0, 1, 0]), (presence, [0, 1, 0, 0, 0])):
        sampler = one(params, 3)

        assert [sampler.sample(logits).token_ids[0] for _ in range(5)] == tokens


def test_presence_and_frequency_ignore_the_prompt() -> None:
    """Only generated tokens count for them, whereas repetition covers the prompt."""
    logits = np.float32([[3.0, 2.5]])
    prompt = np.array([0, 0])
    weak = SamplingParams(0.0, presence_penalty=2.0, frequency_penalty=2.0, repetition_penalty=1.1)
    strong = SamplingParams(0.0, repetition_penalty=1.5)

    assert one(weak, 2, prompt).sample(logits).token_ids[0] == 0
    assert one(strong, 2, prompt).sample(logits).token_ids[0] == 1


def test_min_tokens_holds_the_end_tokens_back() -> None:
    """An end token comes at the earliest after that many others."""
    logits = np.float32([[1.0, 5.0, 9.0]])
    params = SamplingParams(temperature=0.0, min_tokens=2, end_token_ids=(2, 1))
    sampler = one(params, 3)

    assert [sampler.sample(logits).token_ids[0] for _ in range(4)] == [0, 0, 2, 2]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_row_without_possible_token_still_gives_an_id(temperature: float, top_p: float) -> None:
    """Where bans leave nothing the id is valid and its raw logprob is reported."""
    params = SamplingParams(
        temperature, top_p, min_tokens=1, end_token_ids=(0, 1, 2), num_logprobs=1
    )
    logits = np.float32([[1.0, 5.0, 9.0]])

    raw = one(params, 3).sample(logits)
    sampler = Sampler(1, 3, "processed")
    sampler.admit(0, params, stream_key(0), NOTHING)
    changed = sampler.sample(logits)

    assert raw.token_ids[0] == changed.token_ids[0] == 0
    assert np.isfinite(raw.logprobs[0])
    assert changed.logprobs[0] == -np.inf


BAD_ROWS = {
    "nan": [0.0, np.nan, 1.0],
    "infinite": [0.0, np.inf, 1.0],
    "nothing": [-np.inf, -np.inf, -np.inf],
    "nan and minus infinity": [-np.inf, np.nan, -np.inf],
}


@pytest.mark.parametrize("name", BAD_ROWS)
@pytest.mark.parametrize("mode", ["raw", "processed"])
def test_bad_row_is_told_and_disturbs_no_other(name: str, mode: str) -> None:
    """Rows that are not finite are marked, whatever they asked for, and nothing warns."""
    good = [0.5, 0.25, -np.inf]
    asking = SamplingParams(
        top_p=0.9, repetition_penalty=1.5, num_logprobs=2, logit_bias=((1, -9.0),)
    )
    sampler = Sampler(4, 3, mode)  # type: ignore[arg-type]
    for slot, params in enumerate((asking, SamplingParams(), GREEDY, asking)):
        sampler.admit(slot, params, stream_key(slot), np.array([1, 2]))

    sampled = sampler.sample(np.float32([BAD_ROWS[name]] * 3 + [good]))

    alone = Sampler(1, 3, mode)  # type: ignore[arg-type]
    alone.admit(0, asking, stream_key(3), np.array([1, 2]))
    expected = alone.sample(np.float32([good]))
    assert sampled.is_finite.tolist() == [False, False, False, True]
    assert sampled.token_ids[3] == expected.token_ids[0]
    assert sampled.top_logprobs[3].tolist() == expected.top_logprobs[0].tolist()


@unhurried
@given(logits=logit_rows(3), params=st.lists(any_params, min_size=3, max_size=3))
def test_logits_are_what_they_were(logits: Logits, params: list[SamplingParams]) -> None:
    """Sampling leaves its input's bits, in both modes."""
    for mode in ("raw", "processed"):
        sampler = Sampler(3, VOCAB_SIZE, mode)  # type: ignore[arg-type]
        for slot, wanted in enumerate(params):
            sampler.admit(slot, wanted, stream_key(slot), np.arange(9))
        before = logits.copy()
        sampler.sample(logits)

        np.testing.assert_array_equal(logits, before)


def test_slots_that_were_never_used_are_greedy() -> None:
    """Idle rows among the others cost no draw and ask for nothing."""
    logits = np.float32([[0.0, 9.0], [9.0, 0.0]])

    sampled = Sampler(2, 2).sample(logits)

    assert sampled.token_ids.tolist() == [1, 0]
    assert np.isnan(sampled.logprobs).all()


def test_no_rows_give_no_tokens() -> None:
    """An empty step is not an error."""
    sampled = Sampler(2, 7).sample(np.empty((0, 7), dtype=np.float32))

    assert sampled.token_ids.shape == sampled.is_finite.shape == (0,)
    assert sampled.top_ids.shape == (0, 0)
