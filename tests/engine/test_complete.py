"""Laws of prompts of a program: the results of a job's lines, in the order of the prompts."""

import json

import numpy as np
import pytest

from aobatch.api.request import Limits, Parser, requests_of
from aobatch.errors import RequestError
from aobatch.testing import scripted_engine, speaking_script

PROMPTS = ["a", "the second", "a", "", "somewhat longer than the others"]
PARAMETERS = {"max_tokens": 6, "temperature": 0.9, "n": 2, "logprobs": 1}


def test_requests_are_those_of_a_file() -> None:
    """Keys, and so draws, are those that lines with the same bodies get, repeats too."""
    parser = Parser({}, Limits())
    lines = [json.dumps({"prompt": prompt, **PARAMETERS}).encode() for prompt in PROMPTS]
    expected = [parser.parse(number, line) for number, line in enumerate(lines, 1)]

    assert list(requests_of(PROMPTS, PARAMETERS)) == expected


def test_results_are_in_the_order_of_the_prompts() -> None:
    """Short prompts do not overtake long ones, and each gets what the engine gives its request."""
    engine = scripted_engine()
    expected = {r.request.line: r.choices for r in engine.run(requests_of(PROMPTS, PARAMETERS))}

    results = engine.complete(PROMPTS, **PARAMETERS)

    assert [result.request.line for result in results] == [1, 2, 3, 4, 5]
    assert [result.choices for result in results] == [expected[line] for line in range(1, 6)]
    assert all(result.error is None for result in results)


def test_text_and_token_ids_of_any_kind_are_prompts() -> None:
    """A text alone is one prompt; ids may be a list, a tuple or an array."""
    engine = scripted_engine(speaking_script("hello", " world"))
    ids = list(b"hello")

    for prompts in ("hello", ["hello"], [ids], [tuple(ids)], [np.array(ids)]):
        (result,) = engine.complete(prompts, temperature=0)
        assert result.choices[0].text == " world"
        assert result.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("prompts", "parameters", "code", "param"),
    [
        (["a"], {"max_token": 1}, "unknown_parameter", "max_token"),
        (["a"], {"temperature": 3}, "decimal_above_max_value", "temperature"),
        (["a"], {"best_of": 2, "n": 3}, "integer_below_min_value", "best_of"),
        (["a", []], {}, "empty_array", "prompt"),
        (["a", "\ud800"], {}, "invalid_unicode", None),
    ],
)
def test_what_is_wrong_is_raised(
    prompts: list[object], parameters: dict[str, object], code: str, param: str | None
) -> None:
    """A wrong parameter or prompt is the documented error, not a result."""
    with pytest.raises(RequestError) as error:
        scripted_engine().complete(prompts, **parameters)  # type: ignore[arg-type]

    assert (error.value.code, error.value.param) == (code, param)


def test_a_prompt_that_does_not_fit_fails_alone() -> None:
    """Its result has the error of its line; the others are computed."""
    first, second = scripted_engine().complete(["a" * 5000, "b"], max_tokens=2)

    assert first.error is not None
    assert first.error.code == "context_length_exceeded"
    assert second.error is None
    assert second.usage.completion_tokens > 0
