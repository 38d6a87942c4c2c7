"""Parameters of several parts: prompts, stops, token ids, biases, stream options."""

from collections.abc import Callable

import pytest

from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject

TAKEN: list[tuple[str, object, object]] = [
    ("prompt", "hi", ("hi",)),
    ("prompt", "", ("",)),
    ("prompt", None, ("",)),
    ("prompt", ["a", "", "b"], ("a", "", "b")),
    ("prompt", [0, 7, 9_999_999], ((0, 7, 9_999_999),)),
    ("prompt", [[5], [6, 7]], ((5,), (6, 7))),
    ("prompt", ["x"] * 2048, ("x",) * 2048),
    ("prompt", [1] * 5000, ((1,) * 5000,)),
    ("stop", "END", ("END",)),
    ("stop", ["\n\n", "END"], ("\n\n", "END")),
    ("stop", ["x" * 256] * 16, ("x" * 256,) * 16),
    ("logit_bias", {"100": 1, "7": -100, "0": 100.0}, ((0, 100.0), (7, -100.0), (100, 1.0))),
    ("logit_bias", {}, ()),
    ("logit_bias", dict.fromkeys(map(str, range(1024)), 1), tuple((i, 1.0) for i in range(1024))),
    ("stop_token_ids", [], ()),
    ("stop_token_ids", [2] * 64, (2,) * 64),
    ("stream_options", {"include_usage": True}, True),
    ("stream_options", {"include_usage": False}, False),
    ("stream_options", {"include_usage": None}, False),
    ("stream_options", {}, False),
]
"""A parameter, its value, and what the body keeps of it."""

WRONG: list[tuple[str, object, str, str]] = [
    ("prompt", [], "empty_array", "'prompt'"),
    ("prompt", [[]], "empty_array", "'prompt[0]'"),
    ("prompt", [[1], []], "empty_array", "'prompt[1]'"),
    ("prompt", ["a", 1], "invalid_type", "'prompt[1]'"),
    ("prompt", [1, "a"], "invalid_type", "'prompt[1]'"),
    ("prompt", [[1], "a"], "invalid_type", "'prompt[1]'"),
    ("prompt", [[1], 2], "invalid_type", "'prompt[1]'"),
    ("prompt", [[1, [2]]], "invalid_type", "'prompt[0][1]'"),
    ("prompt", [1, True], "invalid_type", "'prompt[1]'"),
    ("prompt", [True], "invalid_type", "'prompt[0]'"),
    ("prompt", [1.0], "invalid_type", "'prompt[0]'"),
    ("prompt", [None], "invalid_type", "'prompt[0]'"),
    ("prompt", 5, "invalid_type", "'prompt'"),
    ("prompt", {"a": 1}, "invalid_type", "'prompt'"),
    ("prompt", [3, -1], "integer_below_min_value", "'prompt[1]'"),
    ("prompt", [[10**7]], "integer_above_max_value", "'prompt[0][0]'"),
    ("prompt", [10**30], "integer_above_max_value", "'prompt[0]'"),
    ("prompt", ["x"] * 2049, "array_above_max_length", "'prompt'"),
    ("prompt", [[1]] * 2049, "array_above_max_length", "'prompt'"),
    ("prompt", ["x"] * 10**5, "array_above_max_length", "'prompt'"),
    ("stop", [], "empty_array", "'stop'"),
    ("stop", ["x"] * 17, "array_above_max_length", "'stop'"),
    ("stop", ["x"] * 10_000, "array_above_max_length", "'stop'"),
    ("stop", "", "empty_string", "'stop'"),
    ("stop", ["a", ""], "empty_string", "'stop[1]'"),
    ("stop", "x" * 257, "string_above_max_length", "'stop'"),
    ("stop", "x" * 10**6, "string_above_max_length", "'stop'"),
    ("stop", ["a", 5], "invalid_type", "'stop[1]'"),
    ("stop", [None], "invalid_type", "'stop[0]'"),
    ("stop", 5, "invalid_type", "'stop'"),
    *(
        ("logit_bias", {key: 1}, "invalid_value", "no token id of 1 to 7 digits")
        for key in ("1_0", " 7 ", "٧", "", "-1", "+1", "1.0", "12345678", "0x1", "1\n", "a")
    ),
    ("logit_bias", {"7": 1, "007": 2}, "invalid_value", "token id 7 stands in it twice"),
    ("logit_bias", dict.fromkeys(range(1025), 1), "array_above_max_length", "'logit_bias'"),
    ("logit_bias", {"50256": 100.5}, "decimal_above_max_value", "'logit_bias.50256'"),
    ("logit_bias", {"50256": -101}, "decimal_below_min_value", "'logit_bias.50256'"),
    ("logit_bias", {"50256": 10**400}, "decimal_above_max_value", "'logit_bias.50256'"),
    ("logit_bias", {"50256": "5"}, "invalid_type", "'logit_bias.50256'"),
    ("logit_bias", {"50256": True}, "invalid_type", "'logit_bias.50256'"),
    ("logit_bias", {"50256": None}, "invalid_type", "'logit_bias.50256'"),
    *(("logit_bias", value, "invalid_type", "an object") for value in ([], "7", 7)),
    ("stop_token_ids", [2] * 65, "array_above_max_length", "'stop_token_ids'"),
    ("stop_token_ids", [-1], "integer_below_min_value", "'stop_token_ids[0]'"),
    ("stop_token_ids", [10**7], "integer_above_max_value", "'stop_token_ids[0]'"),
    ("stop_token_ids", [True], "invalid_type", "'stop_token_ids[0]'"),
    ("stop_token_ids", ["2"], "invalid_type", "'stop_token_ids[0]'"),
    ("stop_token_ids", "2", "invalid_type", "'stop_token_ids'"),
    ("stop_token_ids", 2, "invalid_type", "'stop_token_ids'"),
    ("stream_options", True, "invalid_type", "'stream_options'"),
    ("stream_options", {"include_usage": 1}, "invalid_type", "'stream_options.include_usage'"),
    ("stream_options", {"include_usages": True}, "unknown_parameter", "include_usage'?"),
]
"""A parameter, its value, the code of its error, and what the message says of the place."""


def named(value: object) -> str | None:
    """Name a case by its value, if that is short."""
    return repr(value) if len(repr(value)) < 40 else None


@pytest.mark.parametrize(("name", "value", "kept"), TAKEN, ids=named)
def test_parts_are_kept(
    accept: Callable[[dict[str, object]], CompletionBody], name: str, value: object, kept: object
) -> None:
    """Each documented shape is kept in one: tuples, pairs in the order of the ids, a boolean."""
    field = {"prompt": "prompts", "stream_options": "include_usage"}.get(name, name)

    assert getattr(accept({"prompt": "", "stream": True, name: value}), field) == kept


@pytest.mark.parametrize(("name", "value", "code", "place"), WRONG, ids=named)
def test_wrong_parts_are_refused(
    refuse: Callable[[dict[str, object]], ErrorObject],
    name: str,
    value: object,
    code: str,
    place: str,
) -> None:
    """What is empty, mixed, too long or of another type is an error that says where."""
    error = refuse({"prompt": "", "stream": True, name: value})

    assert ((error.param or "").partition(".")[0], error.code) == (name, code)
    assert place in error.message
