"""Laws of choices: candidates, ranking, logprobs, echo, usage, refusals."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aobatch.api.request import Request
from aobatch.arrays import Logits
from aobatch.engine.config import EngineConfig
from aobatch.engine.detokenizer import token_name
from aobatch.engine.sequence import Result
from aobatch.testing import (
    END_TOKEN,
    ByteTokenizer,
    random_script,
    scripted_engine,
    speaking_script,
)

Complete = Callable[..., list[Result]]


def best_choices() -> Any:  # noqa: ANN401 - a module
    """Load the script of the how-to."""
    path = Path(__file__).parents[2] / "jobs/library/best_choices.py"
    spec = spec_from_file_location("best_choices", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_end_token_ends_and_is_not_in_the_text(complete: Complete) -> None:
    """EOS is counted, listed where the text ends, gives the reason stop, and is not in the text."""
    body = {"prompt": "hi", "temperature": 0, "max_tokens": 64, "logprobs": 0}
    (result,) = complete(body, script=speaking_script("hi", " there"))
    (choice,) = result.choices

    assert (choice.text, choice.finish_reason) == (" there", "stop")
    assert [*" there", "<end>"] == choice.logprobs.tokens
    assert [*range(2, 9)] == choice.logprobs.text_offset
    assert (
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
        result.usage.total_tokens,
    ) == (2, 7, 9)


def test_logprobs_are_those_of_the_raw_distribution(complete: Complete) -> None:
    """Each token's logprob is its log-softmax, whatever bias and temperature did."""
    body = {"prompt": "raw", "max_tokens": 12, "logprobs": 4, "logit_bias": {"66": 3}, "top_p": 0.9}
    (result,) = complete(body | {"ignore_eos": True, "temperature": 1.7})
    logprobs, tokens = result.choices[0].logprobs, list(b"raw")

    assert len(logprobs.tokens) == 12
    for name, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        scores = random_script(tuple(tokens)).astype(np.float64)
        scores -= np.log(np.exp(scores).sum())
        best = np.sort(scores)[::-1][:4]
        token = int(np.argmin(abs(scores - logprob)))
        tokens.append(token)
        assert abs(scores[token] - logprob) < 1e-5
        assert logprob == top[name]
        assert len(top) in (4, 5)
        np.testing.assert_allclose(sorted(top.values(), reverse=True)[:4], best, atol=1e-5)


@pytest.mark.parametrize(("top_k", "num_listed"), [(1, 1), (3, 3), (9, 5)])
def test_processed_logprobs_list_possible_tokens_alone(
    complete: Complete, top_k: int, num_listed: int
) -> None:
    """What a filter has dropped is not listed, however many tokens were asked for."""
    body = {"prompt": "few", "max_tokens": 6, "logprobs": 5, "top_k": top_k, "ignore_eos": True}
    (result,) = complete(body, config=EngineConfig(logprobs_mode="processed"))
    logprobs = result.choices[0].logprobs

    for name, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert len(top) in (num_listed, num_listed + (top_k > 5))
        assert top[name] == logprob
        assert min(top.values()) > -100
        if top_k <= 5:
            assert abs(sum(np.exp(list(top.values()))) - 1) < 1e-4


def test_joined_tokens_start_with_the_text(complete: Complete) -> None:
    """After a stop the arrays reach to the token of the cut, and offsets follow the text."""
    body = {"prompt": "say:", "temperature": 0, "max_tokens": 64, "logprobs": 1, "stop": "wo t"}
    (result,) = complete(body, script=speaking_script("say:", "one two three"))
    choice = result.choices[0]

    assert choice.text == "one t"
    assert "".join(choice.logprobs.tokens) == "one tw"
    assert choice.logprobs.text_offset == [4, 5, 6, 7, 8, 9]


def test_echo_lists_the_prompt(complete: Complete) -> None:
    """Echo puts the prompt ahead, with null for its first token."""
    body = {"prompt": "abc", "temperature": 0, "max_tokens": 2, "logprobs": 2, "echo": True}
    (result,) = complete(body | {"ignore_eos": True})
    choice = result.choices[0]

    assert choice.text.startswith("abc")
    assert choice.logprobs.tokens[:3] == ["a", "b", "c"]
    assert choice.logprobs.token_logprobs[0] is choice.logprobs.top_logprobs[0] is None
    assert len(choice.logprobs.tokens) == 5
    assert choice.logprobs.text_offset[:3] == [0, 1, 2]


def test_scoring_generates_nothing(complete: Complete) -> None:
    """Echo with max_tokens 0 scores the prompt: its text, length, no completion token."""
    long = "scored " * 120
    body = {"prompt": long, "max_tokens": 0, "logprobs": 1, "echo": True, "temperature": 0}
    (result,) = complete(body)
    choice = result.choices[0]

    assert (long, "length", 0) == (
        choice.text,
        choice.finish_reason,
        result.usage.completion_tokens,
    )
    assert len(long) == len(choice.logprobs.tokens) == len(choice.logprobs.text_offset)


def test_an_added_start_token_is_counted_and_not_listed(complete: Complete) -> None:
    """The empty prompt is one start token, which usage counts and echo does not show."""
    (result,) = complete({"prompt": "", "max_tokens": 3, "echo": True, "logprobs": 0, "seed": 1})

    assert result.usage.prompt_tokens == 1
    assert len(result.choices[0].logprobs.tokens) <= 3
    assert result.choices[0].logprobs.text_offset[0] == 0


def test_choices_are_indexed_by_prompt_and_candidate(complete: Complete) -> None:
    """Choice i * n + j is candidate j of prompt i, and its seed draws the same as alone."""
    both = complete({"prompt": ["x", "y"], "n": 2, "max_tokens": 8, "seed": 4})[0]
    first = complete({"prompt": "x", "n": 2, "max_tokens": 8, "seed": 4})[0]

    assert [choice.index for choice in both.choices] == [0, 1, 2, 3]
    assert first.choices == both.choices[:2]
    assert len({choice.text for choice in both.choices}) == 4


def test_greedy_candidates_are_equal_and_all_counted(complete: Complete) -> None:
    """Temperature 0 with n = 3 returns one text three times and counts three."""
    (one,) = complete({"prompt": "eq", "temperature": 0, "max_tokens": 5})
    (three,) = complete({"prompt": "eq", "temperature": 0, "max_tokens": 5, "n": 3})

    assert {one.choices[0].text} == {choice.text for choice in three.choices}
    assert 3 * one.usage.completion_tokens == three.usage.completion_tokens
    assert one.usage.prompt_tokens == three.usage.prompt_tokens


@pytest.mark.parametrize("logprobs", [0, 3])
def test_stop_token_ids_end_like_the_end_token(complete: Complete, logprobs: int) -> None:
    """A stop token ends the completion, is not in its text, and is listed with its alternatives."""
    body = {"prompt": "hi", "temperature": 0, "max_tokens": 64, "stop_token_ids": [ord("r")]}
    (result,) = complete(body | {"logprobs": logprobs}, script=speaking_script("hi", " there"))
    (choice,) = result.choices

    assert (choice.text, choice.finish_reason) == (" the", "stop")
    assert [*" ther"] == choice.logprobs.tokens
    assert choice.logprobs.text_offset[-1] == len("hi the")
    top = choice.logprobs.top_logprobs[-1]
    assert len(top) == max(1, logprobs)
    assert top["r"] == choice.logprobs.token_logprobs[-1] == pytest.approx(0, abs=1e-4)


def test_half_a_character_ends_where_its_replacement_does(complete: Complete) -> None:
    """An end token behind an unfinished character stands behind the U+FFFD in the text."""
    body = {"prompt": "p", "temperature": 0, "max_tokens": 9, "logprobs": 0}
    (result,) = complete(body | {"stop_token_ids": [0x98]}, script=speaking_script("p", "a春"))
    (choice,) = result.choices

    assert choice.text == "a\ufffd"
    assert choice.logprobs.tokens == ["a", "bytes:\\xe6", "bytes:\\x98"]
    assert choice.logprobs.text_offset == [1, 2, 3]


@pytest.mark.parametrize("fields", [{}, {"stop": "!"}, {"stop_token_ids": [33]}, {"n": 2}])
@pytest.mark.parametrize("drawn", [END_TOKEN, ord("!"), ord("a"), 0xE2])
def test_a_choice_is_scored_whatever_is_drawn_behind_it(
    complete: Complete, fields: dict[str, object], drawn: int
) -> None:
    """Behind the prompt one token is listed, so what is before it are the logprobs of the choice.

    That is what the script of the how-to and evaluation harnesses add up.
    """
    question, answer = "2 + 2 = 5 is ", "False"

    def script(token_ids: tuple[int, ...]) -> Logits:
        logits = random_script(token_ids)
        logits[drawn] += 50 * (len(token_ids) >= len(question + answer))
        return logits

    body = {"prompt": question + answer, "max_tokens": 1, "temperature": 0, "echo": True}
    (result,) = complete(body | {"logprobs": 1} | fields, script=script)

    ids = tuple((question + answer).encode())
    expected = 0.0
    for end in range(len(question), len(ids)):
        logits = random_script(ids[:end]).astype(np.float64)
        expected += logits[ids[end]] - np.log(np.exp(logits).sum())
    for choice in result.choices:
        listed = choice.logprobs
        assert len(listed.tokens) == len(ids) + 1
        assert listed.tokens[-1] == token_name(ByteTokenizer.token_bytes[drawn])
        assert sum(listed.token_logprobs[len(question) : -1]) == pytest.approx(expected, abs=1e-3)
        shown = best_choices().score(question, {"logprobs": msgspec.structs.asdict(listed)})
        assert shown == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        pytest.param({"max_tokens": 2045}, "context_length_exceeded", "max_tokens", id="context"),
        pytest.param({"prompt": [5, 257]}, "invalid_value", "prompt", id="prompt-id"),
        pytest.param({"logit_bias": {"257": 1}}, "invalid_value", "logit_bias", id="bias-id"),
        pytest.param({"stop_token_ids": [300]}, "invalid_value", "stop_token_ids", id="stop-id"),
    ],
)
def test_what_the_model_cannot_take_is_one_error(
    complete: Complete, body: dict[str, object], code: str, param: str
) -> None:
    """A request past the model's limits gets its error; its neighbours get their results."""
    good = {"prompt": "good", "max_tokens": 3}
    results = complete(good, {"prompt": "text"} | body, good)

    assert (code, param) == (results[1].error.code, results[1].error.param)
    assert results[0].error is results[2].error is None


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"prompt": ["a", "x" * 2049]}, "prompt", "2049 in your 'prompt[1]'; 16 for the comple"),
        ({"prompt": ["x" * 2040, "b"]}, "max_tokens", "2040 in your 'prompt[0]'; 16 for the"),
        ({"suffix": "x" * 2050}, "suffix", "4 in your prompt; 2050 in your suffix; 16 for the"),
        ({"suffix": "x" * 2040}, "max_tokens", "4 in your prompt; 2040 in your suffix; 16 for"),
        ({"prompt": [[1], [5, 257]]}, "prompt", "'prompt[1]': token id 257 is outside"),
    ],
)
def test_error_says_which_text_is_too_long(
    complete: Complete, body: dict[str, object], param: str, words: str
) -> None:
    """Of several prompts, and of prompt and suffix, the one to blame is named."""
    (result,) = complete({"prompt": "text"} | body)

    assert result.error.param == param
    assert words in result.error.message


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"prompt": "x" * 2**20}, id="prompt"),
        pytest.param({"prompt": [7] * 2**20}, id="token-ids"),
        pytest.param({"prompt": "x", "suffix": "é" * 2**20}, id="suffix"),
        pytest.param({"prompt": ["x", "x" * 2**20]}, id="second-prompt"),
    ],
)
def test_what_cannot_fit_is_not_tokenised(
    parse: Callable[..., list[Request]], monkeypatch: pytest.MonkeyPatch, fields: dict[str, object]
) -> None:
    """A text of more characters than the context's tokens can have costs no tokenising."""
    lengths: list[int] = []
    encode = ByteTokenizer.encode

    def spy(tokenizer: ByteTokenizer, text: str) -> np.ndarray:
        lengths.append(len(text))
        return encode(tokenizer, text)

    monkeypatch.setattr(ByteTokenizer, "encode", spy)

    (result,) = scripted_engine().run(parse(fields))

    assert result.error is not None
    param = "suffix" if "suffix" in fields else "prompt"
    assert (result.error.code, result.error.param) == ("context_length_exceeded", param)
    least = -(-(2**20) // 5) if fields["prompt"] != [7] * 2**20 else 2**20
    name = (
        "'prompt[1]'"
        if isinstance(fields["prompt"][-1], str) and len(fields["prompt"]) == 2
        else param
    )  # type: ignore[index,arg-type]
    assert f"2048 tokens, however your {name} has at least {least} tokens" in result.error.message
    assert max(lengths, default=0) <= 1


def test_clamping_shortens_to_the_context(complete: Complete) -> None:
    """With clamping, max_tokens is what the context still holds."""
    body = {"prompt": "c" * 2040, "max_tokens": 500, "ignore_eos": True}
    (result,) = complete(body, config=EngineConfig(clamp_max_tokens=True))

    assert result.usage.completion_tokens == 8
