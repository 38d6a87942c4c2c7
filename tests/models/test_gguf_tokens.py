"""Laws of a GGUF's special tokens: what ends a text, and what marks an infill."""

from pathlib import Path

import pytest
from gguf_writing import Gguf, i32s, small_llama, texts, u32
from piece_files import BYTE, BYTES, CONTROL, NORMAL, SPECIAL, USER, WORDS, small_pieces

from aobatch.models.source.gguf_checkpoint import read_gguf
from aobatch.models.spec import Checkpoint

KEY = "tokenizer.ggml"


def read(file: Gguf, folder: Path) -> Checkpoint:
    """Read a file."""
    return read_gguf(file.write(folder / "file.gguf"))


def pieces_with(name: str, kind: int) -> Gguf:
    """Give a vocabulary of pieces whose fourth token has another name and kind."""
    file = small_pieces()
    listed = [*SPECIAL[:3], (name, kind), *BYTES, *((word, NORMAL) for word in WORDS)]
    assert {kind for _, kind in listed} >= {NORMAL, CONTROL, BYTE}
    file.fields[f"{KEY}.tokens"] = texts([token for token, _ in listed])
    file.fields[f"{KEY}.token_type"] = i32s([kind for _, kind in listed])
    return file


@pytest.mark.parametrize(
    ("name", "kind", "ends"),
    [
        ("<end_of_turn>", CONTROL, True),
        ("<end_of_turn>", USER, True),
        ("<|im_end|>", USER, True),
        ("<eos>", CONTROL, True),
        ("<eos>", USER, False),
        ("<|im_end|>", NORMAL, False),
        ("<tool>", CONTROL, False),
    ],
)
def test_ends_go_by_name_and_kind(name: str, kind: int, ends: bool, tmp_path: Path) -> None:
    """The end that the file states is joined by tokens of known names that stand apart."""
    found = read(pieces_with(name, kind), tmp_path)

    assert found.eos_token_ids == ((2, 3) if ends else (2,))


@pytest.mark.parametrize("role", ["eot", "eom"])
def test_ends_of_turns_may_be_stated(role: str, tmp_path: Path) -> None:
    """The metadata's ends of a turn and of a message end a text as well."""
    file = small_pieces()
    file.fields[f"{KEY}.{role}_token_id"] = u32(7)

    assert read(file, tmp_path).eos_token_ids == (2, 7)


@pytest.mark.parametrize(
    "names",
    [
        ("fim_pre", "fim_suf", "fim_mid"),
        ("prefix", "suffix", "middle"),
        ("fim_pre", "suffix", "fim_mid"),
    ],
)
def test_infill_tokens_may_be_stated(names: tuple[str, str, str], tmp_path: Path) -> None:
    """Newer and older keys name the tokens ahead of prefix, suffix and middle."""
    file = small_pieces()
    for token_id, name in zip((9, 8, 7), names, strict=True):
        file.fields[f"{KEY}.{name}_token_id"] = u32(token_id)

    assert read(file, tmp_path).infill_token_ids == (9, 8, 7)


def test_half_of_the_infill_tokens_are_none(tmp_path: Path) -> None:
    """Two of three cannot lay out an infill."""
    file = small_llama()
    file.fields[f"{KEY}.prefix_token_id"] = u32(1)
    file.fields[f"{KEY}.suffix_token_id"] = u32(2)

    assert read(file, tmp_path).infill_token_ids == ()
