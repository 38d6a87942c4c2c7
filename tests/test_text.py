"""Laws of text that a terminal shows and does not obey."""

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.text import aligned, counted, duration, escape, nearest, printable

CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
TURNING = [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
INVISIBLE = [0xAD, 0x200B, 0x2060, 0x2063, 0xFEFF, 0xFFF9, 0xE0001, *range(0xE0020, 0xE0080)]
LINE_ENDS = [0x0A, 0x0B, 0x0C, 0x0D, 0x85, 0x2028, 0x2029]
HALVES = [0xD800, 0xDBFF, 0xDC00, 0xDCFF, 0xDFFF]
SHOWN = "azAZ09 ~!\\\"' é ß Ж 写诗 한 ع א नि 😀 ❤️ … ﷺ ﬁ"


@pytest.mark.parametrize("code", [*CONTROLS, *TURNING, *INVISIBLE, *LINE_ENDS, *HALVES], ids=hex)
def test_hidden_characters_are_shown_as_their_code(code: int) -> None:
    """What moves the cursor, turns text around or cannot be seen is ASCII afterwards."""
    shown = escape(f"a{chr(code)}b")

    assert shown.isascii()
    assert shown.isprintable()
    assert shown[:3] + shown[-1] == "a\\ub"
    if code not in HALVES:
        assert json.loads(f'"{shown}"') == f"a{chr(code)}b"


def test_words_of_all_languages_stay() -> None:
    """Letters, signs and emoji are as they were."""
    assert escape(SHOWN) == SHOWN


def test_what_is_kept_stays() -> None:
    """The layout of a text can be spared, and nothing else is."""
    assert escape("a\tb\n\x1b[2J", kept="\t\n") == "a\tb\n\\u001b[2J"


def test_every_character_can_be_escaped_and_written() -> None:
    """No character breaks it, or whatever writes what it gives; half characters too."""
    text = "".join(map(chr, range(sys.maxunicode + 1)))

    shown = escape(text)

    assert len(shown.encode()) > len(text)
    assert not {*map(chr, [*CONTROLS, *TURNING, *INVISIBLE, *HALVES])} & {*shown}


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_escaped_json_is_the_same_json(text: str) -> None:
    """A terminal's JSON can be copied out of it."""
    assert json.loads(escape(json.dumps([text], ensure_ascii=False))) == [text]


def test_long_text_is_cut() -> None:
    """Text of a request takes a bounded place, also when it is escaped."""
    assert printable("x" * 41) == "x" * 39 + "…"
    assert printable("x" * 40) == "x" * 40
    assert len(printable("\x1b" * 10**6)) == 40


def test_one_is_no_plural() -> None:
    """What is counted has the form of its number, and large numbers their commas."""
    assert [counted(number, "line") for number in (0, 1, 2, 12345)] == [
        "0 lines",
        "1 line",
        "2 lines",
        "12,345 lines",
    ]


@pytest.mark.parametrize(
    ("seconds", "exact", "roughly"),
    [
        (0.127, "0.13 s", "0 s"),
        (12.34, "12.3 s", "12 s"),
        (61.4, "1 min 1 s", "1 min 1 s"),
        (3_723_600, "1,034 h 20 min", "1,034 h 20 min"),
    ],
)
def test_times_have_two_units(seconds: float, exact: str, roughly: str) -> None:
    """The two greatest; estimates have no fractions of a second."""
    assert (duration(seconds), duration(seconds, is_exact=False)) == (exact, roughly)


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    """The last side is that of the columns that have none; no line ends in blanks."""
    rows = [("", "n", "of"), ("model", "1,000", "2"), ("m", "3", "")]

    assert aligned(rows, "<>") == ["           n  of", "model  1,000   2", "m          3"]
    assert aligned(rows) == ["       n      of", "model  1,000  2", "m      3"]


def test_the_nearest_name_is_found() -> None:
    """A typing error has the name that it is most like, nonsense has none."""
    assert nearest("temprature", ("prompt", "temperature")) == "temperature"
    assert nearest("xyz", ("prompt", "temperature")) is None


@pytest.mark.parametrize(
    ("name", "known", "meant"),
    [
        ("runn", ("run", "report"), "run"),
        ("sotp", ("stop", "stream"), "stop"),
        ("maxTokens", ("max_tokens", "min_tokens"), "max_tokens"),
        ("top", ("top_p", "top_k", "stop"), None),
        ("system", ("stream", "stop"), None),
        ("input", ("min_p",), None),
        ("stop_token", ("stop_token_ids", "prompt"), "stop_token_ids"),
        ("", ("a",), None),
    ],
)
def test_a_name_that_misleads_is_not_found(
    name: str, known: tuple[str, ...], meant: str | None
) -> None:
    """A slip or two are forgiven, and of two names that are as near none is chosen."""
    assert nearest(name, known) == meant
