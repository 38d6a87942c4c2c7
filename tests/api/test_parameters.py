"""Every parameter of a request: its bounds, its type, its default."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
from msgspec import UNSET

from aobatch.api.body import PARAMETERS, SHAPES, CompletionBody
from aobatch.api.errors import ErrorObject

Accept = Callable[[dict[str, object]], CompletionBody]
Refuse = Callable[[dict[str, object]], ErrorObject]


class Bounds(NamedTuple):
    """What the documentation promises of a number, and bodies in which it may take every value."""

    noun: str
    lowest: float
    highest: float
    beside: dict[str, object] = {}  # noqa: RUF012


INTEGERS = {
    "max_tokens": Bounds("integer", 0, 2**31 - 1),
    "n": Bounds("integer", 1, 128),
    "logprobs": Bounds("integer", 0, 20),
    "best_of": Bounds("integer", 1, 20),
    "seed": Bounds("integer", -(2**63), 2**63 - 1),
    "top_k": Bounds("integer", -1, 2**31 - 1),
    "min_tokens": Bounds("integer", 0, 2**31 - 1, {"max_tokens": 2**31 - 1}),
}
DECIMALS = {
    "temperature": Bounds("decimal", 0, 2),
    "top_p": Bounds("decimal", 0, 1),
    "presence_penalty": Bounds("decimal", -2, 2),
    "frequency_penalty": Bounds("decimal", -2, 2),
    "min_p": Bounds("decimal", 0, 1),
    "repetition_penalty": Bounds("decimal", 0.01, 10),
}
BOOLEANS = ["stream", "echo", "ignore_eos"]
TEXTS = ["model", "suffix", "user"]
CONTAINERS = ["prompt", "stream_options", "stop", "logit_bias", "stop_token_ids"]
DEFAULTS = {
    "model": None, "prompts": ("",), "suffix": None, "max_tokens": 16, "temperature": 1.0,
    "top_p": 1.0, "n": 1, "stream": False, "include_usage": False, "logprobs": None, "echo": False,
    "stop": (), "presence_penalty": 0.0, "frequency_penalty": 0.0, "best_of": 1, "logit_bias": (),
    "user": None, "seed": None, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0,
    "min_tokens": 0, "ignore_eos": False, "stop_token_ids": (), "shape": UNSET,
}  # fmt: skip
NUMBERS = INTEGERS | DECIMALS
WRONG_TYPES = [
    (name, expected, value)
    for names, expected, values in (
        (INTEGERS, "an integer", [True, "5", 1.0, [1], {"a": 1}]),
        (DECIMALS, "a decimal", [False, "0.5", [0.5], {}]),
        (BOOLEANS, "a boolean", [0, 1, "true", 1.0, []]),
        (TEXTS, "a string", [5, True, ["a"], {"a": "b"}]),
    )
    for name in names
    for value in values
]


def test_every_parameter_is_tested() -> None:
    """The lists of this file and the table name the same parameters."""
    assert sorted(PARAMETERS) == sorted([*NUMBERS, *BOOLEANS, *TEXTS, *CONTAINERS, *SHAPES])


def test_every_parameter_is_described() -> None:
    """The documentation finds a sentence and the accepted values of each parameter."""
    for parameter in PARAMETERS.values():
        assert parameter.doc.endswith(".")
        assert str(parameter.kind)


def test_bare_prompt_gets_documented_defaults(accept: Accept) -> None:
    """A body without any parameter has all the defaults."""
    body = accept({"prompt": ""})

    # A ranking is no parameter: it follows from best_of.
    names = {*body.__struct_fields__} - {"ranks_all"}
    assert {name: getattr(body, name) for name in names} == DEFAULTS


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_null_means_default(accept: Accept, name: str) -> None:
    """A null is as good as leaving the parameter out; a null prompt is the empty one."""
    assert accept({"prompt": "", name: None}) == accept({"prompt": ""})


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_on_their_bounds_are_accepted(accept: Accept, name: str) -> None:
    """Both bounds belong to what is accepted, and the value arrives unchanged."""
    bounds = NUMBERS[name]
    for value in (bounds.lowest, bounds.highest):
        body = accept({"prompt": "", **bounds.beside, name: value})

        assert getattr(body, name) == value
        assert type(getattr(body, name)) is (int if bounds.noun == "integer" else float)


@pytest.mark.parametrize("side", ["above", "below"])
@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_numbers_beyond_a_bound_are_refused(refuse: Refuse, name: str, side: str) -> None:
    """One more than the highest, one less than the lowest value is an error with both numbers."""
    bounds = NUMBERS[name]
    step = 1 if bounds.noun == "integer" else 0.001
    bound, sign, value = bounds.highest, "<=", bounds.highest + step
    if side == "below":
        bound, sign, value = bounds.lowest, ">=", bounds.lowest - step
    extreme = "maximum" if side == "above" else "minimum"
    error = refuse({"prompt": "", **bounds.beside, name: value})

    assert (error.param, error.code) == (name, f"{bounds.noun}_{side}_{extreme[:3]}_value")
    assert error.message == (
        f"Invalid '{name}': {bounds.noun} {side} {extreme} value. "
        f"Expected a value {sign} {bound}, but got {value} instead."
    )


@pytest.mark.parametrize("name", sorted(NUMBERS))
def test_number_of_4000_digits_is_refused_shortly(refuse: Refuse, name: str) -> None:
    """An integer beyond every float is out of bounds, and its digits are not repeated."""
    error = refuse({"prompt": "", name: 10**4000})

    assert error.code == f"{NUMBERS[name].noun}_above_max_value"
    assert len(error.message) < 250


@pytest.mark.parametrize(("name", "expected", "value"), WRONG_TYPES, ids=repr)
def test_no_other_type_is_taken(refuse: Refuse, name: str, expected: str, value: object) -> None:
    """Neither true, nor digits in a string, nor 1.0 is an integer, and so on."""
    error = refuse({"prompt": "", name: value})

    assert (error.param, error.code) == (name, "invalid_type")
    assert error.message.startswith(f"Invalid type for '{name}': expected {expected}, but got ")


@pytest.mark.parametrize("name", BOOLEANS)
@pytest.mark.parametrize("value", [True, False])
def test_booleans_arrive_unchanged(accept: Accept, name: str, value: bool) -> None:
    """Both booleans are accepted."""
    assert getattr(accept({"prompt": "", name: value}), name) is value


@pytest.mark.parametrize("name", TEXTS)
def test_texts_arrive_unchanged(accept: Accept, name: str) -> None:
    """Any character is kept, U+0000 too."""
    assert getattr(accept({"prompt": "", name: "春\0\u2028é"}), name) == "春\0\u2028é"


def test_user_has_at_most_512_characters(accept: Accept, refuse: Refuse) -> None:
    """The length of user counts characters, not bytes."""
    assert accept({"prompt": "", "user": "春" * 512}).user == "春" * 512
    error = refuse({"prompt": "", "user": "春" * 513})

    assert (error.param, error.code) == ("user", "string_above_max_length")
    assert error.message == (
        "Invalid 'user': string too long. Expected a string with maximum length 512, "
        "but got a string with length 513 instead."
    )


@pytest.mark.parametrize("name", ["metadata", "store", "service_tier"])
def test_parameters_of_other_tools_are_ignored(accept: Accept, name: str) -> None:
    """Parameters that mean nothing in a batch may have any value and change nothing."""
    for value in ({"a": [1]}, True, "auto", None):
        assert accept({"prompt": "", name: value}) == accept({"prompt": ""})


def test_negative_zero_is_zero(accept: Accept) -> None:
    """-0.0 and 0 are the same number, so that equal requests have equal bytes."""
    assert str(accept({"prompt": "", "presence_penalty": -0.0}).presence_penalty) == "0.0"
