"""Laws of splitting rules: texts fall apart as each family's own tokenizer splits them."""

import json
from pathlib import Path

import pytest
from gguf_changes import field
from gguf_writing import small_llama, string
from tokenizers import Tokenizer

from aobatch.models.source.gguf_checkpoint import SPLITTINGS, read_gguf
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
    ],
)
def test_texts_fall_apart_as_the_family_has_it(rule: str, expected: str, tmp_path: Path) -> None:
    """Contractions, digits, signs, spaces and line ends, written out by hand."""
    library = Tokenizer.from_file(str(tokenizer_json(rule, tmp_path)))
    parts = [part for part, _ in library.pre_tokenizer.pre_tokenize_str(TEXT)]

    assert expected == "|".join(parts).replace("Ġ", " ").replace("Ċ", "\n")


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
