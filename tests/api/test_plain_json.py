"""Laws of the quick decoder: what it accepts is what the strict one accepts, to the same object."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aobatch.api.json_line import LineDecoder, decode_plain
from aobatch.errors import RequestError

MEMBERS = st.sampled_from(
    [
        '{"a":1',
        ',"a":2',
        ',"b":":"',
        ',"c":"\\":"',
        ',"d":{"a":1}',
        ',"e":[1]',
        ',"f":[{"a":1,"a":2}]',
        "}",
        "}",
        ',"g":1e999',
        ',"h":-0',
        ',"i":1.5',
        ',"j":null',
        ',"k":NaN',
        ',"l":"\\ud800"',
        ',"m":"\\ud83d\\ude00"',
    ]
)
PIECES = MEMBERS | st.sampled_from([',"a" : 3', ',"a"\t:4', ',"n":"\u4e2d"', " ", "\t", "\ufeff"])
LINES = st.lists(PIECES, max_size=6).map("".join) | st.lists(PIECES, max_size=4).map(
    lambda pieces: '{"z":0' + "".join(pieces) + "}"
)


def strictly(raw: bytes) -> dict[str, object] | None:
    """Decode with the strict decoder alone; None if it finds anything wrong."""
    try:
        decoded = LineDecoder()._decode_strictly(raw)
        decoded.check()
    except RequestError:
        return None
    return decoded.fields


@settings(max_examples=500, deadline=None)
@given(LINES.map(str.encode) | st.binary(max_size=12))
@example(b'{"a" :1,"a" :2,"b":"x\\":"}')
@example(b'{"a":1,"a":2}')
@example(b'{"a":":","a":1}')
@example(b'{"a":{"b":1,"b":2},"c":1}')
@example(b'{"n":' + b"9" * 5000 + b"}")
@example(b'{"n":123456789012345678901234567890,"m":-0.0,"e":2.5e-324}')
def test_what_is_accepted_quickly_is_right(raw: bytes) -> None:
    """No line that the strict decoder refuses is accepted, and none gives another object."""
    quick = decode_plain(raw)

    if quick is not None:
        # As text, so that 1 and 1.0, 0.0 and -0.0, and the order of keys are told apart.
        assert json.dumps(quick) == json.dumps(strictly(raw))


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt":"a","max_tokens":5}',
        '{"custom_id": "a", "prompt": "q: what?", "temperature": 0.5}',
        '{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":[1,2]}}',
        '{"prompt":"\\u4e2d\\u56fd","logit_bias":{"5":-1}}',
    ],
)
def test_common_lines_are_accepted_quickly(line: str) -> None:
    """Lines as programs write them do not need the strict decoder."""
    assert decode_plain(line.encode()) == json.loads(line)


@pytest.mark.parametrize("line", [b"[" * 65, b"[1]", b'{"a":' + b'"x",' * 2**19 + b'"":1}'])
def test_what_is_no_plain_object_is_left_alone(line: bytes) -> None:
    """Deep, long and other lines are for the strict decoder, which says what is wrong."""
    assert decode_plain(line) is None
