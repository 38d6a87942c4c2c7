"""Laws of guessed tokens: they save runs of a lone sequence, and change nothing else."""

import json
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aobatch.api.request import Limits, Parser, Request
from aobatch.arrays import Logits, TokenIds
from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.engine.lane import GUESSED, guess
from aobatch.engine.sequence import Result
from aobatch.runners import Chunk
from aobatch.testing import LIMITS, ByteTokenizer, ScriptedRunner, random_script, speaking_script

TEXTS = st.lists(st.integers(0, 3), max_size=30)


def repeating_script(token_ids: tuple[int, ...]) -> Logits:
    """Draw logits that the last two tokens decide, mostly for few letters."""
    logits = random_script(token_ids[-2:])
    logits[97:101] += 8
    return logits


class FreeRunner(ScriptedRunner):
    """A runner of which every token gives the same bits in any chunk; counts its runs."""

    min_chunk = 1
    runs: list[int]

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks and note how many tokens."""
        self.runs.append(sum(len(chunk.token_ids) for chunk in chunks))
        return super().prefill(chunks)

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Take in tokens and note how many."""
        self.runs.append(len(token_ids))
        return super().decode(token_ids, lengths)


def computed(runner: ScriptedRunner, *bodies: dict[str, object]) -> list[Result]:
    """Compute bodies on a runner, results in the order of lines."""
    parser = Parser({}, Limits())
    requests = [parser.parse(line, json.dumps(body).encode()) for line, body in enumerate(bodies)]
    assert all(isinstance(request, Request) for request in requests), requests
    engine = Engine(runner, ByteTokenizer(), LIMITS, EngineConfig(num_lanes=1))
    return sorted(engine.run(requests), key=lambda result: result.request.line)


def runs_of(body: dict[str, object]) -> list[int]:
    """Count the tokens of each run that a lone request takes behind its prompt."""
    runner = FreeRunner(repeating_script)
    FreeRunner.runs = []
    computed(runner, body)
    return FreeRunner.runs[1:]


@given(TEXTS, st.integers(0, 12))
def test_a_guess_is_what_followed_most_of_the_last_tokens_where_they_stood_last(
    text: list[int], room: int
) -> None:
    """A plain search from the end finds the same, over and over: more of it, the more are alike."""
    expected: list[int] = []
    for alike in range(1, len(GUESSED) + 1):
        for end in range(len(text) - 1, alike - 1, -1):
            if text[end - alike : end] == text[-alike:]:
                expected = (text[end:] * max(GUESSED))[: min(room, GUESSED[alike - 1])]
                break
    assert guess(np.array(text, np.int64), room).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "prompt": st.text("abcd é", max_size=12),
            "max_tokens": st.integers(1, 40),
            "temperature": st.sampled_from([0, 0.7, 1.5]),
            "seed": st.integers(0, 50),
        },
        optional={
            "stop": st.lists(st.text("abcd", min_size=1, max_size=3), min_size=1, max_size=2),
            "logprobs": st.integers(0, 3),
            "echo": st.booleans(),
            "frequency_penalty": st.sampled_from([-1, 0.5]),
            "ignore_eos": st.booleans(),
        },
    )
)
def test_a_lone_sequence_is_the_same_with_guesses_and_without(body: dict[str, object]) -> None:
    """Text, logprobs, ends, errors and counts."""
    check_guesses_change_nothing(body)


@pytest.mark.parametrize("temperature", [0, 1])
def test_answers_of_a_shape_are_the_same_with_guesses_and_without(temperature: float) -> None:
    """Each token is held to the shape behind those before it."""
    shape = {"regex": "((ab|ac|ba)*c)*[.]"}
    body = {"prompt": "ab", "temperature": temperature, "seed": 1, "max_tokens": 90, "logprobs": 2}
    check_guesses_change_nothing(body | {"structured_outputs": shape})


def check_guesses_change_nothing(body: dict[str, object]) -> None:
    """Compute a body by a runner that may guess, and by one that may not."""
    FreeRunner.runs = []
    guessing = computed(FreeRunner(repeating_script), body)
    plain = computed(ScriptedRunner(repeating_script), body)
    for ours, theirs in zip(guessing, plain, strict=True):
        assert ours.choices == theirs.choices
        assert ours.usage == theirs.usage
        assert ours.error == theirs.error


def test_a_text_that_repeats_itself_takes_fewer_runs_than_it_has_tokens() -> None:
    """Guesses beyond max_tokens are not made."""
    for max_tokens in (2, 30, 60):
        runs = runs_of({"prompt": "ab", "max_tokens": max_tokens, "temperature": 0})
        assert sum(runs) - len(runs) <= max_tokens
    assert len(runs) < 30
    assert max(runs) == max(GUESSED) + 1


def test_sequences_side_by_side_are_not_guessed() -> None:
    """Each run takes in one token of each, as long as there are two."""
    FreeRunner.runs = []
    bodies = ({"prompt": text, "max_tokens": 9, "temperature": 0} for text in ("abab", "cdcd"))
    computed(FreeRunner(repeating_script), *bodies)
    assert FreeRunner.runs[1:] == [2] * 8


def test_a_sequence_ends_within_what_was_guessed() -> None:
    """Behind its end token nothing is sampled, however the text went on before."""
    text = "to be or not to be or not to be"
    FreeRunner.runs = []
    (result,) = computed(
        FreeRunner(speaking_script("say: ", text)),
        {"prompt": "say: ", "max_tokens": 99, "temperature": 0},
    )
    assert result.choices[0].text == text
    assert result.choices[0].finish_reason == "stop"
    assert len(FreeRunner.runs) < len(text)
