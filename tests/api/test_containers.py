"""Parameters of several parts: prompts, stops, token ids, biases, stream options."""

from collections.abc import Callable

import pytest

from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject

Accept = Callable[[dict[str, object]], CompletionBody]
Refuse = Callable[[dict[str, object]], ErrorObject]


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        pytest.param("hi", ("hi",), id="text"),
        pytest.param("", ("",), id="empty"),
        pytest.param(None, ("",), id="null"),
        pytest.param(["a", "", "b"], ("a", "", "b"), id="texts"),
        pytest.param([0, 7, 9_999_999], ((0, 7, 9_999_999),), id="ids"),
        pytest.param([[5], [6, 7]], ((5,), (6, 7)), id="arrays-of-ids"),
        pytest.param(["x"] * 2048, ("x",) * 2048, id="most"),
        pytest.param([1] * 5000, ((1,) * 5000,), id="long-ids-are-one-prompt"),
    ],
)
def test_prompt_becomes_tuple_of_prompts(accept: Accept, prompt: object, prompts: object) -> None:
    """Each of the documented shapes is a tuple of texts or of token ids."""
    assert accept({"prompt": prompt}).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "code", "place"),
    [
        pytest.param([], "empty_array", "'prompt'", id="empty"),
        pytest.param([[]], "empty_array", "'prompt[0]'", id="empty-ids"),
        pytest.param([[1], []], "empty_array", "'prompt[1]'", id="second-empty"),
        pytest.param(["a", 1], "invalid_type", "'prompt[1]'", id="text-then-id"),
        pytest.param([1, "a"], "invalid_type", "'prompt[1]'", id="id-then-text"),
        pytest.param([[1], "a"], "invalid_type", "'prompt[1]'", id="ids-then-text"),
        pytest.param([[1], 2], "invalid_type", "'prompt[1]'", id="ids-then-id"),
        pytest.param([[1, [2]]], "invalid_type", "'prompt[0][1]'", id="three-deep"),
        pytest.param([1, True], "invalid_type", "'prompt[1]'", id="boolean-id"),
        pytest.param([True], "invalid_type", "'prompt[0]'", id="boolean"),
        pytest.param([1.0], "invalid_type", "'prompt[0]'", id="decimal-id"),
        pytest.param([None], "invalid_type", "'prompt[0]'", id="null"),
        pytest.param(5, "invalid_type", "'prompt'", id="number"),
        pytest.param({"a": 1}, "invalid_type", "'prompt'", id="object"),
        pytest.param([3, -1], "integer_below_min_value", "'prompt[1]'", id="negative"),
        pytest.param([[10**7]], "integer_above_max_value", "'prompt[0][0]'", id="eight-digits"),
        pytest.param([10**30], "integer_above_max_value", "'prompt[0]'", id="beyond-int64"),
        pytest.param(["x"] * 2049, "array_above_max_length", "'prompt'", id="too-many-texts"),
        pytest.param([[1]] * 2049, "array_above_max_length", "'prompt'", id="too-many-ids"),
        pytest.param(["x"] * 10**5, "array_above_max_length", "'prompt'", id="far-too-many"),
    ],
)
def test_wrong_prompt_is_refused(refuse: Refuse, prompt: object, code: str, place: str) -> None:
    """An empty, mixed or overlong prompt is an error that says where."""
    error = refuse({"prompt": prompt})

    assert (error.param, error.code) == ("prompt", code)
    assert place in error.message


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        pytest.param("END", ("END",), id="one"),
        pytest.param(["\n\n", "END"], ("\n\n", "END"), id="two"),
        pytest.param(["x" * 256] * 16, ("x" * 256,) * 16, id="most"),
    ],
)
def test_stop_becomes_tuple(accept: Accept, stop: object, kept: tuple[str, ...]) -> None:
    """One string and an array of strings are kept alike."""
    assert accept({"prompt": "", "stop": stop}).stop == kept


@pytest.mark.parametrize(
    ("stop", "code"),
    [
        pytest.param([], "empty_array", id="none"),
        pytest.param(["x"] * 17, "array_above_max_length", id="17"),
        pytest.param(["x"] * 10_000, "array_above_max_length", id="ten-thousand"),
        pytest.param("", "empty_string", id="empty"),
        pytest.param(["a", ""], "empty_string", id="second-empty"),
        pytest.param("x" * 257, "string_above_max_length", id="257"),
        pytest.param("x" * 10**6, "string_above_max_length", id="million"),
        pytest.param(["a", 5], "invalid_type", id="number-inside"),
        pytest.param([None], "invalid_type", id="null-inside"),
        pytest.param(5, "invalid_type", id="number"),
    ],
)
def test_wrong_stop_is_refused(refuse: Refuse, stop: object, code: str) -> None:
    """Stops have 1 to 256 characters, and there are 1 to 16 of them."""
    error = refuse({"prompt": "", "stop": stop})

    assert (error.param, error.code) == ("stop", code)


def test_logit_bias_is_sorted_by_id(accept: Accept) -> None:
    """Biases are pairs of numbers in the order of the ids, not of their digits."""
    body = accept({"prompt": "", "logit_bias": {"100": 1, "7": -100, "0": 100.0}})

    assert body.logit_bias == ((0, 100.0), (7, -100.0), (100, 1.0))


def test_logit_bias_takes_1024_ids(accept: Accept, refuse: Refuse) -> None:
    """The number of ids is bounded, and none is as good as null."""
    assert accept({"prompt": "", "logit_bias": {}}).logit_bias == ()
    assert (
        len(accept({"prompt": "", "logit_bias": dict.fromkeys(range(1024), 1)}).logit_bias) == 1024
    )
    error = refuse({"prompt": "", "logit_bias": dict.fromkeys(range(1025), 1)})

    assert (error.param, error.code) == ("logit_bias", "array_above_max_length")


@pytest.mark.parametrize(
    "key", ["1_0", " 7 ", "٧", "", "-1", "+1", "1.0", "12345678", "0x1", "1\n", "a"]
)
def test_logit_bias_key_is_one_to_seven_digits(refuse: Refuse, key: str) -> None:
    """What int() would read, but is no token id, is refused."""
    error = refuse({"prompt": "", "logit_bias": {key: 1}})

    assert (error.param, error.code) == ("logit_bias", "invalid_value")


def test_logit_bias_names_no_id_twice(refuse: Refuse) -> None:
    """Two spellings of an id are not silently one."""
    error = refuse({"prompt": "", "logit_bias": {"7": 1, "007": 2}})

    assert (error.param, error.code) == ("logit_bias", "invalid_value")
    assert "7" in error.message


@pytest.mark.parametrize(
    ("bias", "code"),
    [
        (100.5, "decimal_above_max_value"),
        (-101, "decimal_below_min_value"),
        (10**400, "decimal_above_max_value"),
        ("5", "invalid_type"),
        (True, "invalid_type"),
        (None, "invalid_type"),
    ],
)
def test_wrong_bias_is_refused(refuse: Refuse, bias: object, code: str) -> None:
    """A bias is a number from -100 to 100, and the message names its token."""
    error = refuse({"prompt": "", "logit_bias": {"50256": bias}})

    assert (error.param, error.code) == ("logit_bias", code)
    assert "'logit_bias.50256'" in error.message


@pytest.mark.parametrize("value", [[], "7", 7], ids=repr)
def test_logit_bias_is_an_object(refuse: Refuse, value: object) -> None:
    """Nothing but an object is a logit_bias."""
    assert refuse({"prompt": "", "logit_bias": value}).code == "invalid_type"


def test_stop_token_ids_take_64(accept: Accept, refuse: Refuse) -> None:
    """Up to 64 ids are kept as they are; none is as good as null."""
    assert accept({"prompt": "", "stop_token_ids": []}).stop_token_ids == ()
    assert accept({"prompt": "", "stop_token_ids": [2] * 64}).stop_token_ids == (2,) * 64
    assert refuse({"prompt": "", "stop_token_ids": [2] * 65}).code == "array_above_max_length"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ([-1], "integer_below_min_value"),
        ([10**7], "integer_above_max_value"),
        ([True], "invalid_type"),
        (["2"], "invalid_type"),
        ("2", "invalid_type"),
        (2, "invalid_type"),
    ],
)
def test_wrong_stop_token_ids_are_refused(refuse: Refuse, value: object, code: str) -> None:
    """A stop token is a whole number that can be a token id."""
    error = refuse({"prompt": "", "stop_token_ids": value})

    assert (error.param, error.code) == ("stop_token_ids", code)


@pytest.mark.parametrize(
    ("options", "include_usage"),
    [({"include_usage": True}, True), ({"include_usage": False}, False),
     ({"include_usage": None}, False), ({}, False)],
)  # fmt: skip
def test_stream_options_hold_include_usage(
    accept: Accept, options: object, include_usage: bool
) -> None:
    """The one option arrives as a boolean."""
    body = accept({"prompt": "", "stream": True, "stream_options": options})

    assert body.include_usage is include_usage


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (True, "invalid_type"),
        ({"include_usage": 1}, "invalid_type"),
        ({"include_usages": True}, "unknown_parameter"),
    ],
)
def test_wrong_stream_options_are_refused(refuse: Refuse, options: object, code: str) -> None:
    """An option that is not include_usage, or no boolean, is an error."""
    error = refuse({"prompt": "", "stream": True, "stream_options": options})

    assert error.code == code
    assert (error.param or "").startswith("stream_options")
