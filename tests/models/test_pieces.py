"""Laws of vocabularies of pieces: the best-scored merge first, bytes for what has no piece."""

import random
import struct
from itertools import pairwise
from pathlib import Path

import pytest
from gguf_changes import Change, field
from gguf_writing import F32, Gguf, array, texts
from piece_files import BYTES, SPECIAL, WORDS, scores, small_pieces

from aobatch.errors import ModelError
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


def test_documents_begin_with_the_token_for_it(tmp_path: Path) -> None:
    """Unless the file says otherwise, prompts get the first token; and only the end ends them."""
    checkpoint = read_gguf(small_pieces().write(tmp_path / "pieces.gguf"))

    assert (checkpoint.document_start_token_id, checkpoint.adds_document_start) == (1, True)
    assert checkpoint.eos_token_ids == (2,)


KINDS = "tokenizer.ggml.token_type"
REFUSED: dict[str, tuple[Change, str]] = {
    "no scores": (lambda file: file.fields.pop("tokenizer.ggml.scores"), "scores' is missing"),
    "few scores": (
        field("tokenizer.ggml.scores", array(F32, [struct.pack("<f", 0)] * 3)),
        "not as many scores as tokens",
    ),
    "score NaN": (
        field("tokenizer.ggml.scores", array(F32, [struct.pack("<f", float("nan"))] * 274)),
        r"scores\[0\]' has to be a finite number, and is nan",
    ),
    "charsmap": (
        field("tokenizer.ggml.precompiled_charsmap", array(0, [b"x"] * 9)),
        "changes texts before it splits them",
    ),
    "no byte": (
        field(
            "tokenizer.ggml.tokens",
            texts([name for name, _ in (*SPECIAL, *BYTES[1:])] + ["x", *WORDS]),
        ),
        "no token for byte 0",
    ),
    "long piece": (
        field(
            "tokenizer.ggml.tokens",
            texts([name for name, _ in (*SPECIAL, *BYTES)] + ["x" * 257, *WORDS[1:]]),
        ),
        "longer than 256 characters",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_contradicts_itself_is_refused(case: str, tmp_path: Path) -> None:
    """Each contradiction gives one sentence with the file and the reason."""
    change, reason = REFUSED[case]
    file = small_pieces()
    change(file)

    with pytest.raises(ModelError, match=reason) as caught:
        read_gguf(file.write(tmp_path / "bad.gguf"))
    assert str(caught.value).startswith(f"{tmp_path / 'bad.gguf'}: ")
