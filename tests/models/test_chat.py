"""Laws of chat formats: they write what the real templates write, and contents stay text."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from chat_files import CONVERSATIONS, FOLDER, GOLDENS, NAMES, SPECIAL, write_tokenizer

from aobatch.api.kinds import Message
from aobatch.errors import RequestError
from aobatch.models.chat import (
    FORMATS,
    MARKERS,
    NONE,
    format_of_template,
    format_of_vocabulary,
    texts_of_template,
)
from aobatch.models.tokenizer import VocabularyTokenizer

EXPECTED: dict[str, list[dict[str, Any]]] = json.loads(GOLDENS.read_text(encoding="utf-8"))


def tokenizer_of(name: str, folder: Path) -> VocabularyTokenizer:
    """Open a vocabulary of the kind that models with this format have."""
    return VocabularyTokenizer(write_tokenizer(name, folder / "tokenizer.json"), 4096)


def messages_of(conversation: list[dict[str, str]]) -> list[Message]:
    """Give a conversation as requests have it."""
    return [Message(item["role"], item["content"]) for item in conversation]  # type: ignore[arg-type]


def test_every_format_has_a_real_template() -> None:
    """None is there that is not held to a template of a published model."""
    assert sorted(FORMATS) == NAMES == sorted(EXPECTED)
    assert all(len(conversations) == 20 for conversations in EXPECTED.values())


@pytest.mark.parametrize("name", NAMES)
def test_conversations_are_written_as_the_template_writes_them(name: str, tmp_path: Path) -> None:
    """Of 20 conversations each has the text and the ids of transformers, or is refused by both."""
    tokenizer, chat = tokenizer_of(name, tmp_path), FORMATS[name]

    for conversation, expected in zip(CONVERSATIONS, EXPECTED[name], strict=True):
        if "refused" in expected:
            with pytest.raises(RequestError, match="chat format"):
                chat.write(messages_of(conversation))
            continue
        parts = chat.write(messages_of(conversation))
        ids = tokenizer.encode_parts(parts).tolist()
        assert "".join(text for text, _ in parts) == expected["text"]
        assert len(ids) == expected["num_ids"], conversation
        assert sha256(",".join(map(str, ids)).encode()).hexdigest()[:16] == expected["ids"]


@pytest.mark.parametrize("name", NAMES)
def test_contents_never_become_special_tokens(name: str, tmp_path: Path) -> None:
    """Contents full of markers are as many special tokens as empty ones are: none."""
    tokenizer, chat = tokenizer_of(name, tmp_path), FORMATS[name]
    names = {token.encode() for token in SPECIAL[name]}
    special = {i for i, token in enumerate(tokenizer.token_bytes) if token in names}
    assert len(special) == len(SPECIAL[name])
    evil = "".join([*SPECIAL[name], *sorted(MARKERS), "\n", *SPECIAL[name]])

    def written(content: str) -> tuple[list[int], bytes]:
        turns = [("user", content), ("assistant", content), ("user", content)]
        parts = chat.write([Message(role, text) for role, text in turns])  # type: ignore[arg-type]
        ids = tokenizer.encode_parts(parts).tolist()
        return [i for i in ids if i in special], b"".join(tokenizer.token_bytes[i] for i in ids)

    plain, _ = written("x")
    found, text = written(evil)
    assert found == plain
    # Vocabularies of pieces write a space as ▁, so that one is read as the other.
    assert text.decode().replace("▁", " ").count(evil.replace("▁", " ")) == 3


@pytest.mark.parametrize("name", NAMES)
def test_a_template_tells_its_format(name: str) -> None:
    """The real template leads to the format, if the vocabulary has its tokens; else to none."""
    template = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")

    assert format_of_template(template, {*SPECIAL[name], "<s>", "</s>"}) == name
    if FORMATS[name].tokens:
        assert format_of_template(template, {"a", "b"}) == NONE


def test_a_template_that_nobody_knows_tells_nothing() -> None:
    """A program in a template is text like any other, and never a reason to guess."""
    assert format_of_template("{{ 9**9**9 }} {% for x in range(9**9) %}", {"<s>"}) == NONE
    assert format_of_template("", {"<|im_start|>", "<|im_end|>"}) == NONE


@pytest.mark.parametrize(
    ("tokens", "name"),
    [
        (SPECIAL["chatml"], "chatml"),
        (SPECIAL["phi4"], "phi4"),
        (SPECIAL["llama3"], "llama3"),
        (SPECIAL["gemma"], "gemma3"),
        (("<s>", "</s>"), NONE),
        ((), NONE),
    ],
)
def test_a_vocabulary_alone_may_tell(tokens: tuple[str, ...], name: str) -> None:
    """Where no template was kept the tokens tell the plainest format that has them."""
    assert format_of_vocabulary({"a", "b", *tokens}) == name


def test_of_several_templates_the_default_one_counts() -> None:
    """A list of named templates is read in the order that puts the default first."""
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}, 3]

    assert list(texts_of_template(named)) == ["D", "T"]
    assert list(texts_of_template({"a": 1})) == []
