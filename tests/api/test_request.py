"""The parser of a job: defaults, limits, unknown names, the order of errors."""

import json
import math
from collections.abc import Callable

import pytest

from aobatch.api.errors import ErrorObject
from aobatch.api.request import CompletionBody, FailedLine, Limits, Parser, Request
from aobatch.errors import RequestError

Refuse = Callable[[dict[str, object]], ErrorObject]


def parse(fields: dict[str, object], parser: Parser | None = None) -> Request | FailedLine:
    """Parse fields as the first line of a job."""
    return (parser or Parser({}, Limits())).parse(1, json.dumps(fields).encode())


def body_of(fields: dict[str, object], parser: Parser) -> CompletionBody:
    """Parse fields that must be right."""
    parsed = parse(fields, parser)
    assert isinstance(parsed, Request), parsed
    return parsed.body


@pytest.mark.parametrize("fields", [{}, {"model": "m"}, {"custom_id": "a"}])
def test_prompt_must_be_given(refuse: Refuse, fields: dict[str, object]) -> None:
    """A line without a prompt is an error, although a null prompt is none."""
    error = refuse(fields)

    assert (error.code, error.param) == ("missing_required_parameter", "prompt")
    assert error.message == "Missing required parameter: 'prompt'."


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("temprature", "Unknown parameter: 'temprature'. Did you mean 'temperature'?"),
        ("promt", "Unknown parameter: 'promt'. Did you mean 'prompt'?"),
        ("Prompt", "Unknown parameter: 'Prompt'. Did you mean 'prompt'?"),
        ("max_new_tokens", "Unknown parameter: 'max_new_tokens'. Did you mean 'max_tokens'?"),
        (
            "max_completion_tokens",
            "Unknown parameter: 'max_completion_tokens'. Did you mean 'max_tokens'?",
        ),
        ("maxOutputTokens", "Unknown parameter: 'maxOutputTokens'. Did you mean 'max_tokens'?"),
        ("topP", "Unknown parameter: 'topP'. Did you mean 'top_p'?"),
        ("topK", "Unknown parameter: 'topK'. Did you mean 'top_k'?"),
        ("top", "Unknown parameter: 'top'."),
        ("input", "Unknown parameter: 'input'. Did you mean 'prompt'?"),
        ("prompt_token_ids", "Unknown parameter: 'prompt_token_ids'. Did you mean 'prompt'?"),
        ("stop_sequences", "Unknown parameter: 'stop_sequences'. Did you mean 'stop'?"),
        ("customId", "Unknown parameter: 'customId'. Did you mean 'custom_id'?"),
        (
            "system",
            "Unknown parameter: 'system'. "
            "Say it in the prompt, or in messages as those of /v1/chat/completions.",
        ),
        ("frobnicate", "Unknown parameter: 'frobnicate'."),
        ("x" * 10**6, f"Unknown parameter: '{'x' * 63}…'."),
    ],
)
def test_unknown_name_is_refused(refuse: Refuse, name: str, message: str) -> None:
    """A name that means nothing is shown with the one that was probably meant."""
    error = refuse({name: 1})

    assert (error.code, error.message) == ("unknown_parameter", message)
    assert error.param == name[:63] + name[63:64].replace("x", "…")


def test_prompt_and_messages_do_not_go_together(refuse: Refuse) -> None:
    """A request that has both is told that it is to have one."""
    error = refuse({"prompt": "a", "messages": []})

    assert (error.code, error.param) == ("unknown_parameter", "messages")
    assert "A request has a prompt, or messages" in error.message


def test_unknown_names_can_be_ignored() -> None:
    """On request an unknown name changes nothing, wherever it stands."""
    parser = Parser({}, Limits(), ignore_unknown=True)
    known = {"prompt": "hi", "stream": True, "stream_options": {"include_usage": True}}
    unknown = {"prompt": "hi", "stream": True, "x": [1]}
    unknown["stream_options"] = {"include_usage": True, "include_obfuscation": False}
    envelope = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": unknown}

    assert body_of(unknown, parser) == body_of(known, parser)
    assert body_of({**envelope, "id": 5}, parser) == body_of(known, parser)


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b'{"x": 1, "custom_id": 5}', "invalid_type"),
        (b'{"n": 0, "x": 1}', "unknown_parameter"),
        (b'{"n": 0, "top_p": 2}', "missing_required_parameter"),
        (b'{"prompt": "", "top_p": 2, "n": 0}', "decimal_above_max_value"),
        (b'{"prompt": "", "n": 0, "top_p": 2}', "integer_below_min_value"),
        (b'{"prompt": "", "min_tokens": 99, "n": 0}', "integer_below_min_value"),
        (b'{"prompt": "", "min_tokens": 99, "stream_options": {}}', "invalid_value"),
        (b'{"custom_id": 5, "n": 1, "n": "\\ud800"}', "duplicate_key"),
        (b'{"custom_id": 5, "n": "\\ud800"}', "invalid_unicode"),
    ],
)  # fmt: skip
def test_first_error_is_reported(parser: Parser, raw: bytes, code: str) -> None:
    """Of several errors the documented order decides which one is reported."""
    failed = parser.parse(1, raw)

    assert isinstance(failed, FailedLine)
    assert failed.error.code == code


def test_defaults_fill_what_a_line_leaves_out() -> None:
    """A default of the job stands for a parameter that is missing or null, and no other."""
    parser = Parser({"model": "m", "max_tokens": 64, "n": 3, "stop": "END"}, Limits())
    body = body_of({"prompt": "hi", "n": 2, "max_tokens": None}, parser)

    assert (body.model, body.max_tokens, body.n, body.stop) == ("m", 64, 2, ("END",))
    assert body.best_of == 2


def test_default_prompt_stands_for_a_missing_one() -> None:
    """A prompt may be a default too; a null prompt is not missing."""
    parser = Parser({"prompt": "hi"}, Limits())

    assert body_of({}, parser).prompts == ("hi",)
    assert body_of({"prompt": None}, parser).prompts == ("",)


def test_default_stream_options_spare_lines_that_do_not_stream() -> None:
    """A line that turns the job's stream off does not have to turn its options off."""
    parser = Parser({"stream": True, "stream_options": {"include_usage": True}}, Limits())

    assert body_of({"prompt": "", "stream": False}, parser).stream is False
    assert body_of({"prompt": ""}, parser).include_usage is True


@pytest.mark.parametrize(
    ("defaults", "code"),
    [
        ({"temperature": 3}, "decimal_above_max_value"),
        ({"max_tokens": "64"}, "invalid_type"),
        ({"temprature": 1}, "unknown_parameter"),
        ({"n": 3, "best_of": 2}, "integer_below_min_value"),
        ({"stream_options": {}}, "invalid_value"),
        ({"temperature": math.nan}, "decimal_below_min_value"),
        ({"temperature": math.inf}, "decimal_above_max_value"),
        ({"user": "\udcff"}, "invalid_unicode"),
        ({"metadata": {"\udcff": 1}}, "invalid_unicode"),
    ],
)
def test_wrong_default_is_refused_at_once(defaults: dict[str, object], code: str) -> None:
    """A job whose defaults are wrong does not begin, even if it ignores unknown names."""
    for ignore_unknown in (False, True):
        with pytest.raises(RequestError) as raised:
            Parser(defaults, Limits(), ignore_unknown)

        assert raised.value.code == code


def test_limits_move_the_bounds() -> None:
    """A job may allow more logprobs or fewer prompts than usual."""
    parser = Parser({}, Limits(max_logprobs=50, max_prompts=2))

    assert body_of({"prompt": ["a", "b"], "logprobs": 50}, parser).logprobs == 50
    beyond: list[dict[str, object]] = [
        {"prompt": "a", "logprobs": 51},
        {"prompt": ["a", "b", "c"]},
    ]
    for fields in beyond:
        assert isinstance(parse(fields, parser), FailedLine)


def test_documented_examples_are_accepted(parser: Parser) -> None:
    """The three request bodies of the API's documentation are right as they stand."""
    model = "gpt-3.5-turbo-instruct"
    examples: list[dict[str, object]] = [
        {"model": model, "prompt": "写一首关于春天的诗:", "max_tokens": 100},
        {"model": model, "prompt": "将以下英文翻译成中文:\n\nHello, how are you?",
         "temperature": 0.3, "max_tokens": 50, "stop": ["\n\n"]},
        {"model": model, "prompt": "Once upon a time", "stream": True, "max_tokens": 200},
    ]  # fmt: skip

    for fields in examples:
        body = body_of(fields, parser)
        assert (body.model, body.prompts) == (model, (fields["prompt"],))
