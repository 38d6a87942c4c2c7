"""Lines whose bytes are wrong: encoding, depth, JSON, repeated keys, half characters."""

import codecs
import json
from collections.abc import Callable

import pytest

from aobatch.api.errors import ErrorObject
from aobatch.api.json_line import MAX_PARTS
from aobatch.api.request import FailedLine, Parser, Request

Refuse = Callable[[bytes], ErrorObject]


NO_JSON: dict[str, bytes] = {
    "empty": b"",
    "blank": b"   ",
    "truncated": b'{"prompt": "a"',
    "truncated-in-string": b'{"prompt": "a',
    "two-objects": b'{"prompt": "a"} {"prompt": "b"}',
    "trailing-comma": b'{"prompt": "a"},',
    "single-quotes": b"{'prompt': 'a'}",
    "comma-before-end": b'{"prompt": "a",}',
    "comment": b'{"prompt": "a" /* b */}',
    "raw-nul": b'{"prompt": "a\x00b"}',
    "raw-vertical-tab": b'{"prompt": "a\x0bb"}',
    "raw-carriage-return": b'{"prompt": "a\rb"}',
    "unknown-escape": b'{"prompt": "\\x41"}',
    "short-escape": b'{"prompt": "\\u12"}',
    "byte-order-mark": codecs.BOM_UTF8 + b'{"prompt": "a"}',
    "utf-16-without-mark": '{"prompt": "a"}'.encode("utf-16-le"),
    "nan": b'{"temperature": NaN}',
    "infinity": b'{"temperature": Infinity}',
    "minus-infinity": b'{"temperature": -Infinity}',
    "beyond-double": b'{"temperature": 1e999}',
    "beyond-double-in-ignored": b'{"metadata": [-1e999]}',
    "no-leading-digit": b'{"temperature": .5}',
    "leading-zero": b'{"temperature": 01}',
    "plus": b'{"temperature": +1}',
    "hexadecimal": b'{"max_tokens": 0x10}',
    "five-thousand-digits": b'{"seed": ' + b"1" * 5000 + b"}",
    "arabic-digit": '{"max_tokens": ٣}'.encode(),
    "word": b"undefined",
}
NO_UTF8: dict[str, bytes] = {
    "stray-byte": b'{"prompt": "\xff"}',
    "cut-character": b'{"prompt": "\xc3"}',
    "overlong": b'{"prompt": "\xc0\x80"}',
    "encoded-surrogate": b'{"prompt": "\xed\xa0\x80"}',
    "latin-1": '{"prompt": "é"}'.encode("latin-1"),
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "utf-32": '{"prompt": "a"}'.encode("utf-32"),
}
NO_OBJECT = {raw.decode(): raw for raw in (b"[]", b'"prompt"', b"5", b"null", b"true", b"[[1]]")}
REFUSED = {
    "invalid_json_line": (NO_JSON, "This line is not valid JSON: "),
    "invalid_utf8": (NO_UTF8, "This line is not UTF-8: byte "),
    "invalid_type": (NO_OBJECT, "Invalid type for 'line': expected an object, but got "),
}


@pytest.mark.parametrize(
    ("code", "name"), [(code, name) for code, (raws, _) in REFUSED.items() for name in raws]
)
def test_what_is_no_object_of_json_is_refused(parser: Parser, code: str, name: str) -> None:
    """A line that RFC 8259 does not allow, in UTF-8 alone, has no style and no custom_id."""
    raws, words = REFUSED[code]

    failed = parser.parse(3, raws[name])

    assert isinstance(failed, FailedLine)
    assert (failed.line, failed.custom_id, failed.is_envelope) == (3, None, False)
    assert (failed.error.code, failed.error.param) == (code, None)
    assert failed.error.message.startswith(words)


@pytest.mark.parametrize(
    "text", ["\0", "a\u2028b\u0085c", "\x7f", "😀", "\ufeff", "\U0010ffff", "\ud83d\ude00"]
)
def test_every_character_may_be_escaped(parser: Parser, text: str) -> None:
    """Escapes of a whole character, U+0000 too, are text."""
    text = text.encode("utf-16", "surrogatepass").decode("utf-16")
    parsed = parser.parse(1, json.dumps({"prompt": text}).encode())

    assert isinstance(parsed, Request)
    assert parsed.body.prompts == (text,)


@pytest.mark.parametrize("escape", [r"\ud800", r"\uDFFF", r"\ud83d x", r"\ude00\ud83d"])
@pytest.mark.parametrize("place", ["prompt", "user", "metadata", "stop"])
def test_half_characters_are_refused(refuse: Refuse, escape: str, place: str) -> None:
    """A lone surrogate anywhere would break whatever writes the text."""
    raw = f'{{"prompt": "a", "{place}": "{escape}"}}'.replace('"prompt": "a", "prompt"', '"prompt"')

    assert refuse(raw.encode()).code == "invalid_unicode"


def test_escaped_backslash_is_no_surrogate(parser: Parser) -> None:
    """A text that only looks like an escape is accepted."""
    parsed = parser.parse(1, rb'{"prompt": "\\ud800"}')

    assert isinstance(parsed, Request)
    assert parsed.body.prompts == (r"\ud800",)


def test_failed_line_keeps_readable_custom_id(parser: Parser) -> None:
    """Half a character elsewhere does not cost the line its identity; within it, it does."""
    elsewhere = parser.parse(1, rb'{"custom_id": "a", "prompt": "\ud800"}')
    inside = parser.parse(2, rb'{"custom_id": "a\ud800", "prompt": ""}')

    assert isinstance(elsewhere, FailedLine)
    assert isinstance(inside, FailedLine)
    assert (elsewhere.custom_id, inside.custom_id) == ("a", None)
    assert elsewhere.error.code == inside.error.code == "invalid_unicode"


@pytest.mark.parametrize(
    ("raw", "key", "custom_id"),
    [
        (b'{"custom_id": "a", "n": 1, "n": 1}', "n", "a"),
        (b'{"custom_id": "a", "custom_id": "b", "prompt": ""}', "custom_id", None),
        (b'{"custom_id": "a", "metadata": [{"x": 1, "x": 2}]}', "x", "a"),
        (b'{"custom_id": "a", "logit_bias": {"7": 1, "7": 2}}', "7", "a"),
        (b'{"custom_id": "a", "n": 1, "\\u006e": 1}', "n", "a"),
    ],
)
def test_repeated_keys_are_refused(
    parser: Parser, raw: bytes, key: str, custom_id: str | None
) -> None:
    """An object that says a thing twice is not silently read as its last value."""
    failed = parser.parse(1, raw)

    assert isinstance(failed, FailedLine)
    assert (failed.error.code, failed.error.param) == ("duplicate_key", key)
    assert failed.custom_id == custom_id


def test_repeated_key_that_is_no_text_is_one_error(refuse: Refuse) -> None:
    """A key that cannot be written cannot be named either."""
    for raw in (rb'{"\ud800": 1, "\ud800": 2}', rb'{"metadata": {"\udfff": 1, "\udfff": 2}}'):
        assert refuse(raw).code == "invalid_unicode"


def test_repeated_keys_are_forgotten_with_their_line(parser: Parser) -> None:
    """A line does not suffer from the one before."""
    parser.parse(1, b'{"n": 1, "n": 1}')

    assert isinstance(parser.parse(2, b'{"prompt": ""}'), Request)


@pytest.mark.parametrize(("depth", "is_accepted"), [(64, True), (65, False)])
def test_depth_is_at_most_64(parser: Parser, depth: int, is_accepted: bool) -> None:
    """The object of the line counts as the first level."""
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    parsed = parser.parse(1, b'{"prompt": "", "metadata": ' + inner + b"}")

    assert isinstance(parsed, Request) is is_accepted
    assert is_accepted or parsed.error.code == "too_deep"  # type: ignore[union-attr]


@pytest.mark.parametrize("raw", [b"[" * 10**6, b'{"a":' * 10**5, b'{"prompt":' + b"[{" * 50_000])
def test_deep_nesting_is_refused_before_parsing(refuse: Refuse, raw: bytes) -> None:
    """Neither depth nor a missing end reaches a recursive parser."""
    assert refuse(raw).code == "too_deep"


@pytest.mark.parametrize(
    "text", ["[" * 200, '"[' * 200, '\\"[{' * 200, "\\" * 101 + "[" * 200, "}]" * 200]
)
def test_brackets_in_strings_are_text(parser: Parser, text: str) -> None:
    """Depth is counted outside of strings, whatever is escaped in them."""
    parsed = parser.parse(1, json.dumps({"prompt": text, "stop": text[:9]}).encode())

    assert isinstance(parsed, Request)
    assert parsed.body.prompts == (text,)


def test_many_flat_brackets_are_not_deep(parser: Parser) -> None:
    """Arrays side by side are one level, as are those of a large prompt."""
    parsed = parser.parse(1, json.dumps({"prompt": [[1]] * 2048}).encode())

    assert isinstance(parsed, Request)


@pytest.mark.parametrize(
    ("before", "part", "after"),
    [
        pytest.param(b'{"prompt":[', b"[],", b"1]}", id="arrays"),
        pytest.param(b'{"prompt":[', b'{"":1},', b"1]}", id="objects"),
        pytest.param(b'{"prompt":[', b'"ab",', b'""]}', id="strings"),
        pytest.param(b'{"metadata":{', b'"ab":1,', b'"":1}}', id="keys"),
    ],
)
def test_parts_of_a_line_are_bounded(
    parser: Parser, before: bytes, part: bytes, after: bytes
) -> None:
    """Millions of tiny values, which decoded take 25 times their bytes, are not decoded."""
    failed = parser.parse(1, before + part * (MAX_PARTS + 1) + after)
    other = parser.parse(2, before + part * (MAX_PARTS // 2 - 2) + after)

    assert isinstance(failed, FailedLine)
    assert (failed.error.code, failed.error.param) == ("line_too_long", None)
    assert isinstance(other, FailedLine)
    assert other.error.code != "line_too_long"


def test_unfinished_strings_cost_no_more_than_their_length(refuse: Refuse) -> None:
    """Quotes and backslashes that match nothing do not make the scan quadratic."""
    assert refuse(b'{"a":"' + b'\\"' * 500_000 + b"[" * 100).code == "invalid_json_line"
