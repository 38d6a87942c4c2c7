"""Laws of tokenizer files: known kinds give the ids that they always gave, others are refused."""

import json
import os
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizer_files import KINDS, document
from tokenizers import Tokenizer

from aobatch.errors import ModelError
from aobatch.models.checks.tokenizer import check_tokenizer, why_unsafe
from aobatch.models.tokenizer import VocabularyTokenizer

TEXT = "It's 2,048 rows.\n\n  Ünïcode — 春风 🙂\tand\r\n<|end|>tabs   "
Change = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_of_known_kinds_are_those_of_the_file(tmp_path: Path, kind: str) -> None:
    """What the library may see of a file gives the ids that the whole file gives."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(KINDS[kind]))
    checked = Tokenizer.from_buffer(msgspec.json.encode(check_tokenizer(path)))
    whole = Tokenizer.from_file(str(path))

    expected = whole.encode(TEXT, add_special_tokens=False).ids
    assert expected == checked.encode(TEXT, add_special_tokens=False).ids
    assert len(expected) > 20


@pytest.mark.parametrize(
    "pattern",
    [
        pytest.param(r"\p{Han}+|[a-z]+|\d{1,2}|\s+", id="of-a-family-to-come"),
        pytest.param(" ", id="every-space"),
        pytest.param(r"(?:\p{L}\p{M}*)+|.", id="nested-and-quick"),
        pytest.param(r"\s?\p{L}+", id="words-of-deepseek-coder"),
        pytest.param("[一-龥ࠀ-一가-\ud7ff]+", id="scripts-of-deepseek"),
        pytest.param(
            "\\s?[A-Za-zµÀ-ÖØ-öø-ƺὙὛὝὟ-\u1f7dᾀ-ᾴῐ-\u1fd3ῖ-\u1fdbⰀ-ⱻ𐐀-𐑏𞤀-𞥃]+",
            id="letters-of-deepseek-llm",
        ),
        pytest.param("\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+", id="signs-of-deepseek-llm"),
        pytest.param(r"\s+$", id="ends-of-deepseek-llm"),
        pytest.param(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}\r\n]+|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+",
            id="seed-coder",
        ),
        pytest.param("[0-9][0-9][0-9]", id="digits-of-falcon"),
    ],
)
def test_good_patterns_need_not_be_known(pattern: str) -> None:
    """What goes through long texts of few characters in good time is accepted."""
    assert why_unsafe(pattern) == ""


def test_patterns_that_take_the_cube_of_a_texts_length_are_refused() -> None:
    """`a*a+b` took 215 s for 6,000 characters; the trial needs little, and tries words, too."""
    assert why_unsafe("(ab)*(ab)+c") == "which could take forever"


def nested(depth: int) -> list[Any]:
    """Give a list in a list in a list."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def split(pattern: object, behavior: str = "Isolated") -> Change:
    """Give a change that splits by a pattern."""
    rule = {"type": "Split", "pattern": pattern, "behavior": behavior, "invert": False}
    return lambda file: file.update(pre_tokenizer=rule)


def table(content: bytes) -> dict[str, str]:
    """Give a rule that changes characters by a table."""
    return {"type": "Precompiled", "precompiled_charsmap": b64encode(content).decode()}


def normalizers(*rules: dict[str, Any]) -> Change:
    """Give a change that normalises by such rules."""
    return lambda file: file.update(normalizer={"type": "Sequence", "normalizers": rules})


def added(token_id: object, content: object = "<new>") -> Change:
    """Give a change that adds a token."""
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    token = {"id": token_id, "content": content, **dict.fromkeys(names, False)}
    return lambda file: file["added_tokens"].append(token)


LONGER = {"type": "Replace", "pattern": {"String": "a"}, "content": "aaaaaaaa"}
HOSTILE: dict[str, Change] = {
    "no-model": lambda file: file.pop("model"),
    "other-model": lambda file: file["model"].update(type="WordPiece"),
    "model-option": lambda file: file["model"].update(exec="rm"),
    "part-that-clears-a-screen": lambda file: file.update({"a\n\x1b[2Jb": 1}),
    "unknown-part": lambda file: file.update(chat_template="{{ cycler.__init__ }}"),
    "id-negative": lambda file: file["model"]["vocab"].update(a=-1),
    "id-of-2^32-1": lambda file: file["model"]["vocab"].update(new=2**32 - 1),
    "id-of-2^80": lambda file: file["model"]["vocab"].update(new=2**80),
    "id-beyond-the-model": lambda file: file["model"]["vocab"].update(new=512),
    "id-fraction": lambda file: file["model"]["vocab"].update(a=0.5),
    "id-text": lambda file: file["model"]["vocab"].update(a="0"),
    "id-twice": lambda file: file["model"]["vocab"].update(new=3),
    "vocabulary-list": lambda file: file["model"].update(vocab=["a"]),
    "merge-of-three": lambda file: file["model"]["merges"].append(["a", "b", "c"]),
    "merge-of-strangers": lambda file: file["model"]["merges"].append(["never", "seen"]),
    "merge-number": lambda file: file["model"]["merges"].append(7),
    "random-merges": lambda file: file["model"].update(dropout=0.1),
    "added-id-of-another": added(50),
    "added-id-elsewhere": added(5, "!"),
    "added-id-beyond": added(512),
    "added-id-out-of-turn": added(500),
    "added-id-negative": added(-1),
    "added-twice": lambda file: file["added_tokens"].extend(file["added_tokens"]),
    "added-empty": added(436, ""),
    "added-long": added(436, "x" * 257),
    "added-many": lambda file: file.update(
        added_tokens=[{"id": i, "content": f"<{i}>"} for i in range(65_537)]
    ),
    "regex-exponential": split({"Regex": "(a+)+$"}),
    "regex-cubic": split({"Regex": "q*q+z"}),
    "regex-broken": split({"Regex": "[a-z]+("}),
    "regex-endless": split({"Regex": "a" * 1_000_000}),
    "regex-and-string": split({"Regex": " ", "String": " "}),
    "pattern-empty": split({"String": ""}),
    "pattern-of-nothing": split({}),
    "behavior-unknown": split({"String": " "}, "Exploded"),
    "pre-tokenizer-unknown": lambda file: file.update(pre_tokenizer={"type": "Custom"}),
    "sequence-in-sequence": normalizers({"type": "Sequence", "normalizers": []}),
    "normalizer-binary": normalizers({"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "table-of-growth": normalizers(table(bytes(4) + b"a" * 65 + b"\0")),
    "table-no-base64": normalizers({"type": "Precompiled", "precompiled_charsmap": "!"}),
    "normalizer-regex": normalizers(LONGER | {"pattern": {"Regex": "(a+)+$"}}),
    "normalizer-growth": normalizers(*[LONGER] * 3),
    "normalizer-long": normalizers(LONGER | {"content": "a" * 9}),
    "normalizers-many": normalizers(*[{"type": "NFC"}] * 17),
    "deep-and-ignored": lambda file: file.update(post_processor=nested(70)),
}
REASONS = {
    "id-beyond-the-model": "id 512 is outside",
    "id-twice": "the same id",
    "added-id-of-another": "'<new>' has the id of another",
    "added-id-elsewhere": "'!' has the id of another",
    "added-id-beyond": "id 512 is outside",
    "added-id-out-of-turn": "does not follow the vocabulary",
    "added-twice": "added twice",
    "regex-exponential": "library cannot use",
    "regex-cubic": "could take forever",
    "regex-broken": "library cannot use",
    "regex-and-string": "by two at once",
    "pattern-of-nothing": "by no pattern",
    "normalizer-growth": "64 times as long",
    "table-of-growth": "64 times as long",
    "table-no-base64": "table of characters cannot be read",
    "deep-and-ignored": "nests too deep",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(tmp_path: Path, name: str) -> None:
    """Each is a ModelError of one line that names the file, and the reason where it is ours."""
    file, path = document(KINDS["llama-3"]), tmp_path / "tokenizer.json"
    HOSTILE[name](file)
    path.write_text(json.dumps(file))

    with pytest.raises(ModelError, match=r"tokenizer\.json (is|gives|splits)") as caught:
        VocabularyTokenizer(path, 512)
    assert REASONS.get(name, "") in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"{" * 1_000_000, id="open"),
        pytest.param(b'{"model":' * 1_000_000, id="deep"),
        pytest.param(b'{"decoder":' + b"[" * 1_000_000, id="deep-and-ignored"),
        pytest.param(b'{"model": {"vocab": {"\xff": 0}, "merges": []}}', id="not-utf-8"),
        pytest.param(b'{"model": {"vocab": {"\\ud800": 0}, "merges": []}}', id="half-a-character"),
        pytest.param(b'{"model": {"vocab": {"a": NaN}, "merges": []}}', id="not-a-number"),
    ],
)
def test_what_is_no_json_is_refused(tmp_path: Path, content: bytes) -> None:
    """Bytes that no tokenizer could have are one sentence, too."""
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)

    with pytest.raises(ModelError, match=r"tokenizer\.json is refused"):
        VocabularyTokenizer(path, 512)


def test_large_files_and_links_are_not_read(tmp_path: Path) -> None:
    """64 MiB are enough; a link and a pipe are told without being opened."""
    large, link, pipe = (tmp_path / name for name in ("large", "link", "pipe"))
    with large.open("wb") as file:
        file.truncate((64 << 20) + 1)
    link.symlink_to(large)
    os.mkfifo(pipe)

    for path in (large, link, pipe):
        with pytest.raises(ModelError, match=r"more than 67108864 bytes|is a link|regular file"):
            check_tokenizer(path)


def test_the_library_sees_no_more_than_was_checked(tmp_path: Path) -> None:
    """A broken part that shapes no ids reaches it in the whole file, and not through the check."""
    file, path = document(KINDS["llama-3"]), tmp_path / "tokenizer.json"
    file["decoder"] = {"type": "Replace", "pattern": {"Regex": "[a-z]+("}, "content": ""}
    path.write_text(json.dumps(file))

    with pytest.raises(Exception, match="PyDecoderWrapper"):
        Tokenizer.from_file(str(path))
    assert VocabularyTokenizer(path, 512).encode("abc").size > 0


def test_vocabularies_of_other_kinds_are_refused(tmp_path: Path) -> None:
    """A vocabulary of pieces that do not fall back on bytes passes the check, but has no bytes."""
    path = tmp_path / "tokenizer.json"
    gemma = document(KINDS["gemma"])
    gemma["model"]["byte_fallback"] = False
    path.write_text(json.dumps(gemma))

    with pytest.raises(ModelError, match="only vocabularies of bytes, or of pieces that fall"):
        VocabularyTokenizer(path, 512)
