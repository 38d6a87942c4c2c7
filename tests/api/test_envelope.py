"""The two styles of a line, and what identifies it."""

import json
from collections.abc import Callable

import pytest

from aobatch.api.errors import ErrorObject
from aobatch.api.request import FailedLine, Limits, Parser, Request

Refuse = Callable[[dict[str, object]], ErrorObject]

ENVELOPE: dict[str, object] = {
    "custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "hi"},
}  # fmt: skip


def parse(parser: Parser, fields: dict[str, object]) -> Request | FailedLine:
    """Parse fields as a line."""
    return parser.parse(7, json.dumps(fields).encode())


def test_envelope_becomes_request(parser: Parser) -> None:
    """The body of an envelope is what a bare line says by itself."""
    request = parse(parser, ENVELOPE)
    bare = parse(Parser({}, Limits()), {"custom_id": "a", "prompt": "hi"})

    assert isinstance(request, Request)
    assert isinstance(bare, Request)
    assert (request.line, request.custom_id, request.is_envelope) == (7, "a", True)
    assert (bare.line, bare.custom_id, bare.is_envelope) == (7, "a", False)
    assert request.body == bare.body


def test_bare_line_needs_no_custom_id(parser: Parser) -> None:
    """A bare line without custom_id, or with null, has none."""
    lines: list[dict[str, object]] = [{"prompt": "hi"}, {"prompt": "hi", "custom_id": None}]
    for fields in lines:
        request = parse(parser, fields)

        assert isinstance(request, Request)
        assert request.custom_id is None


@pytest.mark.parametrize("name", ["custom_id", "method", "url", "body"])
def test_envelope_needs_all_four_fields(parser: Parser, name: str) -> None:
    """Without one of its fields a line is still an envelope, and the field is named."""
    failed = parse(parser, {key: value for key, value in ENVELOPE.items() if key != name})

    assert isinstance(failed, FailedLine)
    assert failed.is_envelope
    assert failed.custom_id == (None if name == "custom_id" else "a")
    assert (failed.error.code, failed.error.param) == ("missing_required_parameter", name)
    assert failed.error.message == f"Missing required parameter: '{name}'."


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("method", "GET", "invalid_value"),
        ("method", "post", "invalid_value"),
        ("method", None, "invalid_type"),
        ("url", "/v1/embeddings", "invalid_url"),
        ("url", "https://api.example/v1/completions", "invalid_url"),
        ("url", "/v1/completions/", "invalid_url"),
        ("url", 5, "invalid_type"),
        ("body", None, "invalid_type"),
        ("body", [], "invalid_type"),
        ("body", '{"prompt": "hi"}', "invalid_type"),
    ],
)
def test_wrong_envelope_field_is_refused(
    parser: Parser, name: str, value: object, code: str
) -> None:
    """An envelope for something else is an error of its own, and keeps its custom_id."""
    failed = parse(parser, ENVELOPE | {name: value})

    assert isinstance(failed, FailedLine)
    assert (failed.error.code, failed.error.param) == (code, name)
    assert (failed.custom_id, failed.is_envelope) == ("a", True)


def test_unknown_envelope_field_is_refused(refuse: Refuse) -> None:
    """A typing error is shown with the name that was meant."""
    error = refuse({"custom_id": "a", "method": "POST", "url": "/v1/completions", "bodi": {}})

    assert (error.code, error.param) == ("unknown_parameter", "bodi")
    assert error.message == "Unknown parameter: 'bodi'. Did you mean 'body'?"


def test_body_errors_are_named_alike_in_both_styles(refuse: Refuse) -> None:
    """The param of an error is the plain name of the parameter."""
    bare = refuse({"custom_id": "b", "prompt": "hi", "temperature": 200})
    enveloped = refuse(ENVELOPE | {"body": {"prompt": "hi", "temperature": 200}})

    assert bare == enveloped
    assert bare.param == "temperature"


def test_custom_id_has_no_place_in_the_body_of_an_envelope(refuse: Refuse) -> None:
    """The envelope's custom_id is the only one."""
    error = refuse(ENVELOPE | {"body": {"prompt": "hi", "custom_id": "b"}})

    assert (error.code, error.param) == ("unknown_parameter", "custom_id")


@pytest.mark.parametrize(
    ("custom_id", "code"),
    [
        (5, "invalid_type"),
        (True, "invalid_type"),
        (["a"], "invalid_type"),
        ("", "empty_string"),
        ("x" * 513, "string_above_max_length"),
    ],
)
@pytest.mark.parametrize("line", [{"prompt": "hi"}, ENVELOPE], ids=["bare", "envelope"])
def test_wrong_custom_id_is_refused(
    parser: Parser, line: dict[str, object], custom_id: object, code: str
) -> None:
    """A custom_id is a string of 1 to 512 characters; a wrong one is not repeated."""
    failed = parse(parser, line | {"custom_id": custom_id})

    assert isinstance(failed, FailedLine)
    assert (failed.error.code, failed.error.param) == (code, "custom_id")
    assert failed.custom_id is None


def test_null_custom_id_is_no_custom_id_for_an_envelope(refuse: Refuse) -> None:
    """An envelope must have one."""
    assert refuse(ENVELOPE | {"custom_id": None}).code == "invalid_type"


@pytest.mark.parametrize("custom_id", ["x" * 512, "../../etc/passwd", "春\n\0", "=1+1", "<b>"])
def test_any_text_is_a_custom_id(parser: Parser, custom_id: str) -> None:
    """A custom_id is data, and means nothing."""
    request = parse(parser, {"prompt": "hi", "custom_id": custom_id})

    assert isinstance(request, Request)
    assert request.custom_id == custom_id


def test_later_line_of_a_custom_id_is_refused(parser: Parser) -> None:
    """The first line of a custom_id runs, in whatever style the others are."""
    first = parse(parser, {"prompt": "hi", "custom_id": "a"})
    others = [parse(parser, ENVELOPE), parse(parser, {"prompt": "no", "custom_id": "a"})]

    assert isinstance(first, Request)
    for other in others:
        assert isinstance(other, FailedLine)
        assert (other.error.code, other.error.param) == ("duplicate_custom_id", "custom_id")
        assert other.custom_id == "a"
    # An envelope must have a custom_id.
    advice = [other.error.message.partition(". ")[2] for other in others]  # type: ignore[union-attr]
    assert advice == ["Give every line its own.", "Give every line its own, or none."]


def test_failed_line_uses_up_its_custom_id(parser: Parser) -> None:
    """No two output lines that could be told apart by custom_id alone share one."""
    first = parse(parser, {"custom_id": "a", "prompt": "hi", "n": 0})
    second = parse(parser, {"custom_id": "a", "prompt": "hi"})

    assert isinstance(first, FailedLine)
    assert isinstance(second, FailedLine)
    assert (first.error.code, second.error.code) == (
        "integer_below_min_value",
        "duplicate_custom_id",
    )


def test_each_job_has_its_own_custom_ids() -> None:
    """A parser knows nothing of another's lines."""
    for _ in range(2):
        assert isinstance(parse(Parser({}, Limits()), ENVELOPE), Request)
