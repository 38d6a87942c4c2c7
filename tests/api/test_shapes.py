"""The parameters that give answers a shape: what each accepts, and that there is one at most."""

import json
from collections.abc import Callable

import pytest
from msgspec import UNSET

from aobatch.api.body import CompletionBody
from aobatch.api.errors import ErrorObject
from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.api.shapes import MAX_BYTES, Shape

Accept = Callable[[dict[str, object]], CompletionBody]
Refuse = Callable[[dict[str, object]], ErrorObject]

SCHEMA: dict[str, object] = {"type": "object", "properties": {"b": {}, "a": {}}}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}

TAKEN: list[tuple[str, object, tuple[str, str] | None]] = [
    ("response_format", {"type": "text"}, None),
    ("response_format", {"type": "json_object"}, ("json", '{"type": "object"}')),
    ("response_format", FORMAT, ("json", json.dumps(SCHEMA))),
    ("response_format", SCHEMA, ("json", json.dumps(SCHEMA))),
    ("response_format", {"enum": ["é"]}, ("json", '{"enum": ["é"]}')),
    ("response_format", {"type": ["string", "null"]}, ("json", '{"type": ["string", "null"]}')),
    ("structured_outputs", {"json": SCHEMA, "regex": None}, ("json", json.dumps(SCHEMA))),
    ("structured_outputs", {"regex": "a+"}, ("regex", "a+")),
    ("structured_outputs", {"choice": ["b", "a", "b"]}, ("choice", '["b", "a"]')),
    ("structured_outputs", {"grammar": 'start: "a"'}, ("grammar", 'start: "a"')),
    ("guided_json", SCHEMA, ("json", json.dumps(SCHEMA))),
    ("guided_json", json.dumps(SCHEMA), ("json", json.dumps(SCHEMA))),
    ("guided_regex", "[0-9]", ("regex", "[0-9]")),
    ("guided_choice", ["yes", "no"], ("choice", '["yes", "no"]')),
    ("guided_grammar", 'root ::= "a"', ("grammar", 'root ::= "a"')),
]
"""A parameter, its value, and the kind and text that the body keeps of it."""

WRONG: list[tuple[str, object, str, str]] = [
    ("response_format", "json_object", "invalid_type", "'response_format'"),
    ("response_format", {"type": "jsn"}, "invalid_value", "'response_format.type'"),
    ("response_format", {"type": "text", "x": 1}, "unknown_parameter", "response_format.x"),
    ("response_format", {"type": "json_schema"}, "missing_required_parameter", ".json_schema'"),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"schema": {}}},
        "missing_required_parameter",
        "'response_format.json_schema.name'",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x"}},
        "missing_required_parameter",
        "'response_format.json_schema.schema'",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x", "schema": {}, "strict": 1}},
        "invalid_type",
        "'response_format.json_schema.strict'",
    ),
    (
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "x", "schem": {}}},
        "unknown_parameter",
        "Did you mean 'response_format.json_schema.schema'?",
    ),
    ("structured_outputs", [], "invalid_type", "'structured_outputs'"),
    ("structured_outputs", {}, "invalid_value", "it has 0 of json, regex"),
    ("structured_outputs", {"json": {}, "regex": "a"}, "invalid_value", "it has 2 of json, regex"),
    ("structured_outputs", {"jsn": {}}, "unknown_parameter", "'structured_outputs.json'?"),
    ("structured_outputs", {"regex": 5}, "invalid_type", "'structured_outputs.regex'"),
    ("structured_outputs", {"choice": []}, "empty_array", "'structured_outputs.choice'"),
    ("guided_json", [], "invalid_type", "'guided_json'"),
    ("guided_json", "[1]", "invalid_type", "'guided_json'"),
    ("guided_json", "{", "invalid_value", "its text cannot be read"),
    ("guided_json", '{"a": 1, "a": 2}', "invalid_value", "stands twice"),
    ("guided_json", {"description": "x" * MAX_BYTES}, "invalid_value", "more than 262144"),
    ("guided_regex", "", "empty_string", "'guided_regex'"),
    ("guided_regex", "é" * (MAX_BYTES // 2 + 1), "invalid_value", "it is 262146 bytes long"),
    ("guided_choice", "yes", "invalid_type", "'guided_choice'"),
    ("guided_choice", ["yes", ""], "empty_string", "'guided_choice[1]'"),
    ("guided_choice", ["yes", 1], "invalid_type", "'guided_choice[1]'"),
    ("guided_choice", ["x"] * 10_001, "array_above_max_length", "maximum length 10000"),
    ("guided_grammar", {"root": "a"}, "invalid_type", "'guided_grammar'"),
]
"""A parameter, a wrong value, the code, and a part of the message."""


@pytest.mark.parametrize(("name", "value", "expected"), TAKEN)
def test_what_is_documented_is_taken(
    accept: Accept, name: str, value: object, expected: tuple[str, str] | None
) -> None:
    """Each name keeps the shape as it is written, keys of schemas in their order."""
    shape = accept({"prompt": "", name: value}).shape

    assert (shape or None) == (Shape(*expected, shape.name) if expected and shape else None)  # type: ignore[arg-type]
    assert not shape or shape.name.startswith(name)


@pytest.mark.parametrize(("name", "value", "code", "part"), WRONG)
def test_what_is_wrong_is_named(
    refuse: Refuse, name: str, value: object, code: str, part: str
) -> None:
    """An error says which part of which parameter is wrong."""
    error = refuse({"prompt": "", name: value})

    assert error.code == code
    assert part in error.message
    assert (error.param or "").startswith(name)


@pytest.mark.parametrize("other", ["structured_outputs", "guided_json", "guided_choice"])
def test_a_request_has_one_shape(accept: Accept, refuse: Refuse, other: str) -> None:
    """Two of the parameters are an error, unless one of them says that there is none."""
    values = {"structured_outputs": {"regex": "a"}, "guided_json": {}, "guided_choice": ["a"]}
    lines: list[dict[str, object]] = [
        {"prompt": "", "response_format": FORMAT, other: values[other]},
        {"prompt": "", other: values[other], "response_format": FORMAT},
    ]
    for line in lines:
        error = refuse(line)

        assert (error.code, error.param) == ("invalid_value", list(line)[-1])
        assert "another one of the parameters that shape an answer" in error.message
    for text in ({"type": "text"}, None):
        assert accept({"prompt": "", other: values[other], "response_format": text}).shape
        assert accept({"prompt": "", "response_format": text, other: values[other]}).shape


@pytest.mark.parametrize(
    "beside", [{"suffix": "end"}, {"min_tokens": 1}, {"ignore_eos": True}], ids=str
)
def test_what_moves_the_end_does_not_go_with_a_shape(
    refuse: Refuse, beside: dict[str, object]
) -> None:
    """Where an answer ends is the shape's to say."""
    error = refuse({"prompt": "", "guided_regex": "a", **beside})

    assert (error.code, error.param) == ("invalid_value", next(iter(beside)))


def parse(parser: Parser, **fields: object) -> Request:
    """Parse a line that must be right."""
    line = parser.parse(1, json.dumps({"prompt": "", **fields}).encode())
    assert isinstance(line, Request), line
    return line


def test_a_line_replaces_the_shape_of_the_job_by_any_name() -> None:
    """A default is for lines that say nothing, an override is for all; `text` says none."""
    job = Parser({"response_format": SCHEMA}, Limits())
    forced = Parser({}, Limits(), overrides={"guided_regex": "b"})

    assert parse(job).body.shape == Shape("json", json.dumps(SCHEMA), "response_format")
    assert parse(job, guided_regex="a").body.shape == Shape("regex", "a", "guided_regex")
    assert parse(job, response_format={"type": "text"}).body.shape is UNSET
    assert parse(forced, response_format=SCHEMA).body.shape == Shape("regex", "b", "guided_regex")


def test_unknown_parts_are_ignored_if_the_job_says_so() -> None:
    """What is tolerated beside parameters is tolerated within them."""
    fields = {"response_format": {"type": "json_object", "x": 1}}
    line = Parser({}, Limits()).parse(1, json.dumps({"prompt": "", **fields}).encode())

    assert isinstance(line, FailedLine)
    assert parse(Parser({}, Limits(), ignore_unknown=True), **fields).body.shape


def test_key_depends_on_the_shape_and_not_on_its_name() -> None:
    """Equal shapes have one key, others another; without one the key is what it always was."""

    def key(**fields: object) -> str:
        return parse(Parser({}, Limits()), **fields).key

    assert key(guided_json=SCHEMA) == key(response_format=FORMAT)
    assert key(guided_choice=["a"]) == key(structured_outputs={"choice": ["a", "a"]})
    assert key(response_format={"type": "text"}) == key() == "1791a17730a3d8dc91462c8eb815c84f"
    assert len({key(), key(guided_regex="a"), key(guided_regex="b"), key(guided_choice=["a"])}) == 4
    reordered = {"type": "object", "properties": {"a": {}, "b": {}}}
    assert key(guided_json=SCHEMA) != key(guided_json=reordered)
