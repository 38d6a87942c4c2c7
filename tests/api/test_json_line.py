"""Lines whose bytes are wrong: encoding, depth, JSON, repeated keys, half characters."""

import codecs
import json
from collections.abc import Callable

import pytest

from aobatch.api.errors import ErrorObject
from aobatch.api.json_line import MAX_PARTS
from aobatch.api.request import FailedLine, Parser, Request

Refuse = Callable[[bytes], ErrorObject]


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"   ", id="blank"),
        pytest.param(b'{"prompt": "a"', id="truncated"),
        pytest.param(b'{"prompt": "a', id="truncated-in-string"),
        pytest.param(b'{"prompt": "a"} {"prompt": "b"}', id="two-objects"),
        pytest.param(b'{"prompt": "a"},', id="trailing-comma"),
        pytest.param(b"{'prompt': 'a'}", id="single-quotes"),
        pytest.param(b'{"prompt": "a",}', id="comma-before-end"),
        pytest.param(b'{"prompt": "a" /* b */}', id="comment"),
        pytest.param(b'{"prompt": "a\x00b"}', id="raw-nul"),
        pytest.param(b'{"prompt": "a\x0bb"}', id="raw-vertical-tab"),
        pytest.param(b'{"prompt": "a\rb"}', id="raw-carriage-return"),
        pytest.param(b'{"prompt": "\\x41"}', id="unknown-escape"),
        pytest.param(b'{"prompt": "\\u12"}', id="short-escape"),
        pytest.param(codecs.BOM_UTF8 + b'{"prompt": "a"}', id="byte-order-mark"),
        pytest.param('{"prompt": "a"}'.encode("utf-16-le"), id="utf-16-without-mark"),
        pytest.param(b'{"temperature": NaN}', id="nan"),
        pytest.param(b'{"temperature": Infinity}', id="infinity"),
        pytest.param(b'{"temperature": -Infinity}', id="minus-infinity"),
        pytest.param(b'{"temperature": 1e999}', id="beyond-double"),
        pytest.param(b'{"metadata": [-1e999]}', id="beyond-double-in-ignored"),
        pytest.param(b'{"temperature": .5}', id="no-leading-digit"),
        pytest.param(b'{"temperature": 01}', id="leading-zero"),
        pytest.param(b'{"temperature": +1}', id="plus"),
        pytest.param(b'{"max_tokens": 0x10}', id="hexadecimal"),
        pytest.param(b'{"seed": ' + b"1" * 5000 + b"}", id="five-thousand-digits"),
        pytest.param('{"max_tokens": ٣}'.encode(), id="arabic-digit"),
        pytest.param(b"undefined", id="word"),
    ],
)
def test_what_is_not_json_is_refused(parser: Parser, raw: bytes) -> None:
    """A line that RFC 8259 does not allow has no style and no custom_id."""
    failed = parser.parse(3, raw)

    assert isinstance(failed, FailedLine)
    assert (failed.line, failed.custom_id, failed.is_envelope) == (3, None, False)
    assert (failed.error.code, failed.error.param) == ("invalid_json_line", None)
    assert failed.error.message.startswith("This line is not valid JSON: ")


@pytest.mark.parametrize("raw", [b"[]", b'"prompt"', b"5", b"null", b"true", b"[[1]]"])
def test_json_other_than_an_object_is_refused(refuse: Refuse, raw: bytes) -> None:
    """A request is an object."""
    error = refuse(raw)

    assert (error.code, error.param) == ("invalid_type", None)
    assert "expected an object" in error.message


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b'{"prompt": "\xff"}', id="stray-byte"),
        pytest.param(b'{"prompt": "\xc3"}', id="cut-character"),
        pytest.param(b'{"prompt": "\xc0\x80"}', id="overlong"),
        pytest.param(b'{"prompt": "\xed\xa0\x80"}', id="encoded-surrogate"),
        pytest.param('{"prompt": "é"}'.encode("latin-1"), id="latin-1"),
        pytest.param('{"prompt": "a"}'.encode("utf-16"), id="utf-16"),
        pytest.param('{"prompt": "a"}'.encode("utf-32"), id="utf-32"),
    ],
)
def test_what_is_not_utf8_is_refused(refuse: Refuse, raw: bytes) -> None:
    """Encodings are not guessed."""
    assert refuse(raw).code == "invalid_utf8"


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
