"""Laws of text: characters are never broken, stops are cut, offsets count code points."""

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.engine.detokenizer import Detokenizer, as_asked, decode, offsets, token_name
from aobatch.engine.sequence import Result, StopWatcher
from aobatch.testing import speaking_script

Complete = Callable[..., list[Result]]

# Beginnings, middles and ends of characters, some of which can never follow one another.
LOST_PIECES = [b"A", b"\xc3", b"\xe2", b"\xed", b"\xf0", b"\xf4", b"\x80", b"\xa9", b"\xff"]


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_pieces_join_to_the_whole_text(data: bytes, cuts: list[int]) -> None:
    """However bytes are cut into tokens, the text is that of all bytes."""
    edges = [0, *sorted(cut for cut in cuts if cut <= len(data)), len(data)]
    tokens = [data[a:b] for a, b in pairwise(edges)]
    detokenizer = Detokenizer()
    text = "".join(map(detokenizer.push, tokens))
    whole = data.decode("utf-8", "replace")

    assert whole == decode(tokens)
    assert whole in (text, text + "\ufffd")


@given(st.text(max_size=20))
def test_offsets_point_at_the_character_of_each_byte(text: str) -> None:
    """Every byte of a character shares the offset at which the character begins."""
    tokens = [bytes([value]) for value in text.encode()]
    expected = [5 + place for place, character in enumerate(text) for _ in character.encode()]

    assert expected == offsets(tokens, 5)


@given(st.lists(st.sampled_from(LOST_PIECES), max_size=6))
def test_offsets_point_at_text_behind_lost_characters(tokens: list[bytes]) -> None:
    """A token that is text stands at its offset, however many broken characters are before it."""
    text = decode(tokens)

    for token, place in zip(tokens, offsets(tokens, 0), strict=True):
        assert token != b"A" or text[place] == "A"


@pytest.mark.parametrize(
    ("tokens", "text", "expected"),
    [
        ([b" ab", b" c"], "ab c", [b"ab", b" c"]),
        ([b" ab", b" c"], " ab c", [b" ab", b" c"]),
        ([b" ", b" a"], " a", [b" ", b"a"]),
        ([b"<x>", b" a"], "<x>a", [b"<x>", b"a"]),
        ([b" \xe6", b"\x98\xa5"], "春", [b"\xe6", b"\x98\xa5"]),
        ([b"\xc3\xa9"], "e\u0301", [b"\xc3\xa9"]),
        ([b" ", b"A"], "a", [b" ", b"A"]),
        ([], "", []),
    ],
)
def test_added_spaces_are_taken_away(tokens: list[bytes], text: str, expected: list[bytes]) -> None:
    """Tokens of a prompt stand for the prompt as it was given, or else stay as they are."""
    assert as_asked(tokens, text) == expected


def test_token_names_never_collide() -> None:
    """Half characters are written as bytes, whole text as itself."""
    assert token_name(b"\xe2\x80") == "bytes:\\xe2\\x80"
    assert token_name("né".encode()) == "né"


@given(st.text("abc", max_size=30), st.lists(st.text("abc", min_size=1, max_size=4), min_size=1))
def test_watcher_finds_the_first_complete_stop(text: str, stop: list[str]) -> None:
    """Generation ends with the character that completes a stop, cut where the earliest began."""
    watcher, expected = StopWatcher(stop), None
    for end in range(1, len(text) + 1):
        found = [text[:end].find(string) for string in stop if string in text[:end]]
        expected = min(found, default=None)
        assert watcher.push(text[end - 1].encode()) == bool(found)
        if found:
            break

    assert expected == watcher.cut


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        pytest.param("one two three", ["two"], "one ", id="inside"),
        pytest.param("one two three", ["e t", "two"], "on", id="earliest"),
        pytest.param("one two", ["zzz"], "one two", id="absent"),
        pytest.param("stop", ["stop"], "", id="at-once"),
        pytest.param("春风拂面", ["拂"], "春风", id="wide"),
    ],
)
def test_stop_ends_the_text_before_it(
    complete: Complete, text: str, stop: list[str], expected: str
) -> None:
    """The text ends before the stop, which may lie across tokens, and the reason is stop."""
    body = {"prompt": "say:", "temperature": 0, "max_tokens": 64, "stop": stop}
    (result,) = complete(body, script=speaking_script("say:", text))

    assert (expected, "stop") == (result.choices[0].text, result.choices[0].finish_reason)


def test_stop_is_not_looked_for_in_the_prompt(complete: Complete) -> None:
    """A stop that the prompt ends with, or begins, does not end the completion."""
    script = speaking_script("END EN", "D is not it")
    body = {"prompt": "END EN", "temperature": 0, "max_tokens": 64, "stop": "END", "echo": True}
    (result,) = complete(body, script=script)

    assert result.choices[0].text == "END END is not it"


def test_half_a_character_at_the_end_is_replaced(complete: Complete) -> None:
    """A completion cut by max_tokens inside a character ends with U+FFFD."""
    body = {"prompt": "p", "temperature": 0, "max_tokens": 4}
    (result,) = complete(body, script=speaking_script("p", "a春风"))

    assert (result.choices[0].text[:2], result.choices[0].finish_reason) == ("a春", "length")
    (half,) = complete(body | {"max_tokens": 3}, script=speaking_script("p", "a春风"))
    assert half.choices[0].text == "a\ufffd"
