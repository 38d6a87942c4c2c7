"""Laws of the parser over made-up lines: nothing breaks it, and nothing is changed on the way."""

import json

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from aobatch.api.body import PARAMETERS
from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.api.response import render_failure

STEADY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""A busy machine does not fail a law."""

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=10,
)
NAMES = st.sampled_from([*PARAMETERS, "custom_id", "method", "url", "body", "metadata", "x"])
BODIES = st.fixed_dictionaries(
    {"prompt": TEXTS | st.lists(TEXTS, min_size=1, max_size=3)},
    optional={
        "model": TEXTS,
        "suffix": TEXTS,
        "max_tokens": st.integers(8, 10**6),
        "temperature": st.floats(0, 2),
        "top_p": st.floats(0, 1),
        "n": st.integers(1, 5),
        "best_of": st.integers(5, 20),
        "logprobs": st.integers(0, 20),
        "echo": st.booleans(),
        "stop": st.lists(TEXTS.filter(len), min_size=1, max_size=3),
        "frequency_penalty": st.floats(-2, 2),
        "user": TEXTS,
        "seed": st.integers(-(2**63), 2**63 - 1),
        "top_k": st.integers(-1, 100),
        "min_tokens": st.integers(0, 8),
        "stop_token_ids": st.lists(st.integers(0, 10**6), max_size=3),
    },
)


def parse(fields: dict[str, object]) -> Request | FailedLine:
    """Parse fields as the first line of a job."""
    return Parser({}, Limits()).parse(1, json.dumps(fields).encode())


@STEADY
@given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
@example(b'{"prompt": ""}')
def test_any_bytes_are_one_line(raw: bytes) -> None:
    """Whatever a line holds, it is a request or a failed line, and the latter can be written."""
    parsed = Parser({}, Limits()).parse(5, raw)

    assert parsed.line == 5
    if isinstance(parsed, FailedLine):
        assert json.loads(render_failure(parsed).decode())["error"]["code"] == parsed.error.code


@STEADY
@given(st.dictionaries(NAMES, JSON, max_size=6))
def test_any_object_is_one_line(fields: dict[str, object]) -> None:
    """Whatever the values are, every name of the API can be followed by them."""
    parsed = parse(fields)

    if isinstance(parsed, FailedLine):
        line = render_failure(parsed)
        assert b"\n" not in line
        assert json.loads(line.decode())


@STEADY
@given(BODIES, st.integers(0, 10**6), st.binary(max_size=3))
def test_damaged_line_is_one_line(fields: dict[str, object], place: int, damage: bytes) -> None:
    """A good line with some bytes overwritten is a request or a failed line."""
    raw = json.dumps(fields).encode()
    place %= len(raw)

    parsed = Parser({}, Limits()).parse(1, raw[:place] + damage + raw[place + len(damage) :])

    assert isinstance(parsed, Request | FailedLine)


@STEADY
@given(BODIES, st.booleans())
def test_accepted_body_says_what_the_line_says(fields: dict[str, object], is_ascii: bool) -> None:
    """Each parameter arrives with its value, however its text is escaped."""
    parsed = Parser({}, Limits()).parse(1, json.dumps(fields, ensure_ascii=is_ascii).encode())

    assert isinstance(parsed, Request), parsed
    prompt = fields.pop("prompt")
    assert parsed.body.prompts == (tuple(prompt) if isinstance(prompt, list) else (prompt,))
    for name, value in fields.items():
        assert getattr(parsed.body, name) == (tuple(value) if isinstance(value, list) else value)


@STEADY
@given(BODIES)
def test_body_written_out_is_the_same_request(fields: dict[str, object]) -> None:
    """A body with all defaults spelled out is accepted and has the same key."""
    parsed = parse(fields)
    assert isinstance(parsed, Request), parsed
    written: dict[str, object] = {
        name: getattr(parsed.body, parameter.field)
        for name, parameter in PARAMETERS.items()
        if name not in ("logit_bias", "stream_options", "stop") or name in fields
    }

    assert parse(written) == parsed
