"""Laws of the parser over made-up lines: nothing breaks it, and nothing is changed on the way."""

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st
from line_strategies import BODIES, JSON, NAMES, STEADY

from aobatch.api.body import PARAMETERS, SHAPES
from aobatch.api.request import FailedLine, Limits, Parser, Request
from aobatch.api.response import render_failure


def parse(fields: dict[str, object]) -> Request | FailedLine:
    """Parse fields as the first line of a job."""
    return Parser({}, Limits()).parse(1, json.dumps(fields).encode())


def damaged(raw: bytes, place: int, damage: bytes) -> bytes:
    """Overwrite some bytes of a line."""
    place %= len(raw)
    return raw[:place] + damage + raw[place + len(damage) :]


GOOD = BODIES.map(json.dumps).map(str.encode)
ANY_LINE = st.one_of(
    st.binary(),
    st.text().map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.dictionaries(NAMES, JSON, max_size=6).map(json.dumps).map(str.encode),
    st.builds(damaged, GOOD, st.integers(0, 10**6), st.binary(max_size=3)),
)


@settings(STEADY, max_examples=300)
@given(ANY_LINE)
@example(b'{"prompt": ""}')
def test_any_bytes_are_one_line(raw: bytes) -> None:
    """Whatever a line holds, it is a request or a failed line, and the latter can be written."""
    parsed = Parser({}, Limits()).parse(5, raw)

    assert parsed.line == 5
    if isinstance(parsed, FailedLine):
        line = render_failure(parsed)
        assert b"\n" not in line
        answer = json.loads(line.decode())
        error = answer["error"] or answer["response"]["body"]["error"]
        assert error["code"] == parsed.error.code


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
        if name not in ("logit_bias", "stream_options", "stop", *SHAPES) or name in fields
    }
    if "best_of" not in fields:
        del written["best_of"]  # asked for, it ranks

    assert parse(written) == parsed
