"""What must hold between the parameters of one body."""

from collections.abc import Callable

import pytest

from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject

Accept = Callable[[dict[str, object]], CompletionBody]
Refuse = Callable[[dict[str, object]], ErrorObject]


@pytest.mark.parametrize(
    ("fields", "best_of"),
    [
        pytest.param({}, 1, id="neither"),
        pytest.param({"n": 3}, 3, id="follows-n"),
        pytest.param({"n": 128}, 128, id="follows-large-n"),
        pytest.param({"n": 3, "best_of": None}, 3, id="null"),
        pytest.param({"n": 3, "best_of": 3}, 3, id="equal"),
        pytest.param({"n": 3, "best_of": 20}, 20, id="most"),
        pytest.param({"n": 64, "best_of": 64}, 64, id="large-equal"),
    ],
)
def test_best_of_is_n_to_20(accept: Accept, fields: dict[str, object], best_of: int) -> None:
    """best_of is n if not given, and else at least n and at most 20, or n itself."""
    assert accept({"prompt": "", **fields}).best_of == best_of


@pytest.mark.parametrize(
    ("fields", "code", "bound"),
    [
        pytest.param({"n": 2, "best_of": 1}, "integer_below_min_value", ">= 2", id="below-n"),
        pytest.param({"best_of": 21}, "integer_above_max_value", "<= 20", id="above-20"),
        pytest.param({"n": 30, "best_of": 31}, "integer_above_max_value", "<= 30", id="above-n"),
        pytest.param({"best_of": 10**9}, "integer_above_max_value", "<= 20", id="huge"),
    ],
)
def test_best_of_outside_is_refused(
    refuse: Refuse, fields: dict[str, object], code: str, bound: str
) -> None:
    """Fewer candidates than completions, or too many, is an error with the bound."""
    error = refuse({"prompt": "", **fields})

    assert (error.param, error.code) == ("best_of", code)
    assert f"Expected a value {bound}," in error.message


def test_ranked_candidates_cannot_be_streamed(accept: Accept, refuse: Refuse) -> None:
    """A stream needs best_of = n, for the best one is known only at the end."""
    assert accept({"prompt": "", "stream": True, "n": 2, "best_of": 2}).stream
    error = refuse({"prompt": "", "stream": True, "best_of": 2})

    assert (error.param, error.code) == ("stream", "invalid_value")


@pytest.mark.parametrize("stream", [{}, {"stream": False}, {"stream": None}])
@pytest.mark.parametrize("options", [{}, {"include_usage": False}, {"include_usage": True}])
def test_stream_options_need_stream(
    refuse: Refuse, stream: dict[str, object], options: dict[str, object]
) -> None:
    """Options of a stream that is not asked for are an error, whatever they say."""
    error = refuse({"prompt": "", "stream_options": options, **stream})

    assert (error.param, error.code) == ("stream_options", "invalid_value")


def test_min_tokens_is_at_most_max_tokens(accept: Accept, refuse: Refuse) -> None:
    """The default of 16 bounds it too."""
    assert accept({"prompt": "", "min_tokens": 16}).min_tokens == 16
    error = refuse({"prompt": "", "min_tokens": 17})

    assert (error.param, error.code) == ("min_tokens", "integer_above_max_value")
    assert "Expected a value <= 16, but got 17 instead." in error.message


def test_sampling_params_take_over_every_field(accept: Accept) -> None:
    """What the sampler gets is what the body says, with the ends of model and body together."""
    fields: dict[str, object] = {
        "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "presence_penalty": 0.2,
        "frequency_penalty": 0.3, "repetition_penalty": 1.1, "min_tokens": 3,
    }  # fmt: skip
    body = accept({"prompt": "", "logit_bias": {"7": -1}, "stop_token_ids": [9, 2], **fields})
    params = body.sampling_params((2, 5), 4)

    assert {name: getattr(params, name) for name in fields} == fields
    assert params.logit_bias == ((7, -1.0),)
    assert params.num_logprobs == 4
    assert params.end_token_ids == (2, 5, 9)
