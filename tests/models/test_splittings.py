"""Laws of splitting rules: texts fall apart as each family's own tokenizer splits them."""

import json
from pathlib import Path

import pytest
from gguf_changes import field
from gguf_writing import TOKENS, small_llama, string, texts
from tokenizers import Tokenizer

from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.source.vocabulary import SPLITTINGS, unnamed_splitting
from aobatch.models.tokenizer import VocabularyTokenizer

RULE = "tokenizer.ggml.pre"
TEXT = "I'LL pay 12345 dollars, we're OK\n\n  x"


def tokenizer_json(rule: str, folder: Path) -> Path:
    """Write the tokenizer.json of a model with a rule, and give its path."""
    file = small_llama()
    field(RULE, string(rule))(file)
    path = folder / "tokenizer.json"
    path.write_bytes(read_gguf(file.write(folder / "small.gguf")).tokenizer_json)
    return path


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("gpt-2", "I|'|LL| pay| 12345| dollars|,| we|'re| OK|\n\n | x"),
        ("smollm", "I|'|LL| pay| |1|2|3|4|5| dollars|,| we|'re| OK|\n\n | x"),
        ("llama-bpe", "I|'LL| pay| |123|45| dollars|,| we|'re| OK|\n\n| | x"),
        ("qwen2", "I|'LL| pay| |1|2|3|4|5| dollars|,| we|'re| OK|\n\n| | x"),
        ("tekken", "I|'LL| pay| |1|2|3|4|5| dollars|,| we|'re| OK|\n\n| | x"),
        ("mellum", "I|'|LL| pay| 12345| dollars|,| we|'re| OK|\n\n | x"),
        ("command-r", "I|'|LL| pay| |1|2|3|4|5| dollars|,| we|'re| OK|\n\n | x"),
        ("falcon3", "I|'LL| pay| |123|45| dollars|,| we|'re| OK|\n\n| | x"),
        ("seed-coder", "I|'LL| pay| |1|2|3|4|5| dollars|,| we|'re| OK|\n\n| | x"),
        ("gpt-4o", "I'LL| pay| |123|45| dollars|,| we're| OK|\n\n| | x"),
        ("tiny_aya", "I'LL| pay| |12|345| dollars|,| we're| OK|\n\n| | x"),
        ("deepseek-llm", "I|'|LL| pay| |12345| dollars|,| we|'|re| OK|\n|\n| | x"),
        ("minicpm5", "I|'LL| pay| |123|45| dollars|,| we|'re| OK|\n\n| | x"),
        ("viking", "I'LL| pay| |1|2|3|4|5| dollars|,| we're| OK|\n\n | x"),
        ("deepseek-coder", "I|'|LL| pay| |1|2|3|4|5| dollars|,| we|'|re| OK|\n|\n| | x"),
        ("deepseek-v3", "I|'LL| pay| |123|45| dollars|,| we|'re| OK|\n\n| | x"),
    ],
)
def test_texts_fall_apart_as_the_family_has_it(rule: str, expected: str, tmp_path: Path) -> None:
    """Contractions, digits, signs, spaces and line ends, written out by hand."""
    assert expected == "|".join(parts_of(TEXT, rule, tmp_path))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("deepseek-llm", "abc|春风| def|，|բ"),
        ("deepseek-coder", "abc|春风| def|，|բ"),
        ("deepseek-v3", "abc|春风| def|，|բ"),
    ],
)
def test_scripts_fall_apart_as_the_family_has_it(rule: str, expected: str, tmp_path: Path) -> None:
    """Han behind Latin letters, and signs of full width."""
    assert expected == "|".join(parts_of("abc春风 def，բ", rule, tmp_path))


def parts_of(text: str, rule: str, folder: Path) -> list[str]:
    """Give the parts of a text, which the library writes as bytes."""
    library = Tokenizer.from_file(str(tokenizer_json(rule, folder)))
    parts = library.pre_tokenizer.pre_tokenize_str(text)
    return [text[start:end] for _, (start, end) in parts]


@pytest.mark.parametrize(
    ("family", "token", "rule"),
    [
        ("llama", "<|begin_of_text|>", "llama-bpe"),
        ("llama", "<｜fim▁hole｜>", "deepseek-coder"),
        ("llama", "<｜begin▁of▁sentence｜>", "deepseek-llm"),
        ("qwen2", "<|im_end|>", "qwen2"),
        ("gptneox", "<|padding|>", "olmo"),
        ("llama", "<s>", ""),
    ],
)
def test_rules_without_a_name_follow_from_tokens_and_family(
    family: str, token: str, rule: str
) -> None:
    """Files of a time when rules had no names say which it is by what they hold."""
    assert unnamed_splitting(family, {"a": 0, token: 1}) == rule


@pytest.mark.parametrize("stated", [None, "default"])
def test_a_file_without_a_rule_is_read_by_its_tokens(stated: str | None, tmp_path: Path) -> None:
    """A missing rule, or none by its name, is that of the tokens which the file holds."""
    file = small_llama()
    del file.fields[RULE]
    if stated:
        field(RULE, string(stated))(file)
    field("tokenizer.ggml.tokens", texts(["<|begin_of_text|>", *TOKENS[1:]]))(file)
    found = json.loads(read_gguf(file.write(tmp_path / "small.gguf")).tokenizer_json)

    known = json.loads(tokenizer_json("llama-bpe", tmp_path).read_text())
    assert found["pre_tokenizer"] == known["pre_tokenizer"]


@pytest.mark.parametrize("rule", SPLITTINGS)
def test_every_rule_passes_the_check_of_tokenizers(rule: str, tmp_path: Path) -> None:
    """What is written here is what may be read, and its patterns are known ones."""
    found = VocabularyTokenizer(tokenizer_json(rule, tmp_path), 12)

    assert found.encode("abc<|endoftext|>").tolist() == [10, 0]


def test_whole_words_need_no_merges_where_the_family_has_it(tmp_path: Path) -> None:
    """Rules of llama 3 take a part that is a token as it is; others build it by merges."""
    for rule, is_ignored in (("llama-bpe", True), ("gpt-2", False)):
        model = json.loads(tokenizer_json(rule, tmp_path).read_text())["model"]
        assert model["ignore_merges"] is is_ignored
