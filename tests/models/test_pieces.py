"""Laws of vocabularies of pieces: the best-scored merge first, bytes for what has no piece."""

import random
from itertools import pairwise
from pathlib import Path

import pytest
from gguf_writing import Gguf, string
from piece_files import BYTES, SPECIAL, WORDS, scores, small_pieces

from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.tokenizer import VocabularyTokenizer


def tokenizer(file: Gguf, path: Path) -> VocabularyTokenizer:
    """Open the tokenizer of a file."""
    checkpoint = read_gguf(file.write(path / "pieces.gguf"))
    (path / "tokenizer.json").write_bytes(checkpoint.tokenizer_json)
    return VocabularyTokenizer(path / "tokenizer.json", checkpoint.spec.vocab_size)


def merged(text: str, score: dict[str, float]) -> list[str]:
    """Split a text as the method was published: join the neighbours with the best score, again."""
    parts = list(text.replace(" ", "▁"))
    while True:
        pairs = [(score.get(a + b), -i) for i, (a, b) in enumerate(pairwise(parts))]
        known = [pair for pair in pairs if pair[0] is not None]
        if not known:
            return parts
        place = -max(known)[1]
        parts[place : place + 2] = [parts[place] + parts[place + 1]]


@pytest.mark.parametrize("seed", range(5))
def test_texts_are_split_by_scores(seed: int, tmp_path: Path) -> None:
    """200 texts of chance, against a search for the best pair after each merge."""
    score, chance = scores(seed), random.Random(100 + seed)
    found = tokenizer(small_pieces(seed), tmp_path)
    for _ in range(200):
        text = "".join(chance.choices(" abcé", k=chance.randint(1, 12)))
        pieces = [found.token_bytes[index].decode() for index in found.encode(text)]
        assert [part.replace("▁", " ") for part in merged(text, score)] == pieces


@pytest.mark.parametrize("text", ["春 a", "x\ny\0", "🙂", "", "a<tool>b", "</s>"])
def test_every_text_is_the_bytes_of_its_tokens(text: str, tmp_path: Path) -> None:
    """What has no piece is written in bytes; marks stand for themselves."""
    found = tokenizer(small_pieces(), tmp_path)

    joined = b"".join(found.token_bytes[index] for index in found.encode(text))
    assert text == joined.decode()


def test_marks_are_found_before_anything_else(tmp_path: Path) -> None:
    """Control tokens and pieces of the user are one token each."""
    found = tokenizer(small_pieces(), tmp_path)

    assert found.encode("<tool></s>").tolist() == [3, 2]


def test_a_space_ahead_is_added_where_the_file_says_so(tmp_path: Path) -> None:
    """With add_space_prefix a text is split as if a space were ahead of it."""
    with_space = tokenizer(small_pieces(adds_space=True), tmp_path)
    without = tokenizer(small_pieces(), tmp_path)

    assert with_space.encode("abc b").tolist() == without.encode(" abc b").tolist()


def named(file: Gguf, family: str) -> Gguf:
    """Give the file of one family the name of another that has the same weights."""
    file.fields = {
        key.replace("llama.", f"{family}.", 1) if key.startswith("llama.") else key: value
        for key, value in file.fields.items()
    }
    file.fields["general.architecture"] = string(family)
    return file


@pytest.mark.parametrize(("family", "adds"), [("llama", True), ("gemma", False)])
def test_a_space_ahead_is_the_familys_where_the_file_says_nothing(
    family: str, adds: bool, tmp_path: Path
) -> None:
    """Other converters leave it out; gemma adds none."""
    file = named(small_pieces(), family)
    del file.fields["tokenizer.ggml.add_space_prefix"]
    found = read_gguf(file.write(tmp_path / "pieces.gguf")).tokenizer_json

    assert (b"Prepend" in found) == adds


@pytest.mark.parametrize(("family", "piece"), [("llama", "▁a"), ("phi3", "a")])
def test_marks_of_phi3_swallow_spaces(family: str, piece: str, tmp_path: Path) -> None:
    """Behind a mark that ends a turn a space is no token of its own, as its tokenizer has it."""
    found = tokenizer(named(small_pieces(), family), tmp_path)

    first = len(SPECIAL) + len(BYTES)
    assert found.encode("</s> a").tolist() == [2, first + WORDS.index(piece)]


def test_documents_begin_with_the_token_for_it(tmp_path: Path) -> None:
    """Unless the file says otherwise, prompts get the first token; and only the end ends them."""
    checkpoint = read_gguf(small_pieces().write(tmp_path / "pieces.gguf"))

    assert (checkpoint.document_start_token_id, checkpoint.adds_document_start) == (1, True)
    assert checkpoint.eos_token_ids == (2,)
