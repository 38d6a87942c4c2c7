"""Laws of GGUF files in parts: together they are the one file, and a missing part is named."""

import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from gguf_writing import Gguf, numbers, small_llama, u32

from aobatch.errors import ModelError
from aobatch.models.source.decoder import decoder_shapes
from aobatch.models.store import catalogue
from aobatch.models.store.locate import locate, read_checkpoint
from aobatch.runners.scoring import score_texts

COUNT = 3


def u16(value: int) -> bytes:
    """Write a value of type uint16."""
    return struct.pack("<IH", 2, value)


def parts() -> list[Gguf]:
    """Cut a file in three; the first has the metadata and, as some writers do it, no tensors."""
    whole = small_llama()
    names = list(whole.tensors)
    cuts = [names[:0], names[:4], names[4:]]
    return [
        Gguf(
            {
                **(whole.fields if number == 0 else {}),
                "split.no": u16(number),
                "split.count": u16(COUNT),
                "split.tensors.count": u32(len(names)),
            },
            {name: whole.tensors[name] for name in cut},
        )
        for number, cut in enumerate(cuts)
    ]


def name_of(number: int) -> str:
    """Give the name of a part."""
    return f"small-{number + 1:05}-of-{COUNT:05}.gguf"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with all parts, and with what reads pictures for the model."""
    path = tmp_path / "parts"
    path.mkdir()
    for number, part in enumerate(parts()):
        part.write(path / name_of(number))
    (path / "mmproj-small.gguf").write_bytes(b"GGUF")
    return path


@pytest.mark.parametrize("named", ["", *map(name_of, range(COUNT))])
def test_any_part_names_the_rest(named: str, folder: Path, tmp_path: Path) -> None:
    """The folder, or whichever part, gives the model of the one file."""
    whole = read_checkpoint(small_llama().write(tmp_path / "small.gguf"))
    found = read_checkpoint(folder / named)

    assert locate(folder / named).kind == "gguf"
    assert (whole.spec, whole.tokenizer_json) == (found.spec, found.tokenizer_json)
    assert [path.name for path in found.files] == [*map(name_of, range(COUNT))]
    for name in decoder_shapes(whole.spec):
        np.testing.assert_array_equal(whole.load(name), found.load(name), name)


@pytest.mark.parametrize("missing", range(COUNT))
def test_a_missing_part_is_named(missing: int, folder: Path) -> None:
    """The error says which file is not there."""
    (folder / name_of(missing)).unlink()

    with pytest.raises(ModelError, match=f"{name_of(missing)}, part {missing + 1} of 3, is miss"):
        read_checkpoint(folder)


def test_a_part_of_another_name_is_told_how_to_be_named(folder: Path) -> None:
    """Without the number in its name nothing says where the others are."""
    (folder / name_of(0)).rename(folder / "renamed.gguf")

    with pytest.raises(ModelError, match=r"one of 3 parts; name them alike, NAME-00001-of-00003"):
        read_checkpoint(folder / "renamed.gguf")


def test_parts_of_different_files_are_refused(folder: Path) -> None:
    """A part in the place of another, and one with other tensors, do not make a model."""
    first, second = (folder / name_of(number) for number in (1, 2))
    content = second.read_bytes()
    shutil.copy(first, second)
    with pytest.raises(ModelError, match=f"{second.name}: it is not part 3 of 3, as its name says"):
        read_checkpoint(folder)

    second.write_bytes(content)
    twice = parts()[1]
    twice.tensors = parts()[2].tensors
    twice.write(first)
    with pytest.raises(ModelError, match="do not hold the 11 different tensors"):
        read_checkpoint(folder)


@pytest.mark.parametrize("named", ["", name_of(0), name_of(2)])
def test_a_model_is_found_again_while_no_part_changes(
    named: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was converted is converted anew when another part of it was written since."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(catalogue, "PRECISION", "fp32")
    first = catalogue.adopt(folder / named, lambda *_: None, score_texts)
    assert first.is_new
    assert catalogue.find_adopted(folder / named) == first.folder

    part = parts()[1]
    part.tensors["blk.0.attn_norm.weight"] = numbers(32, seed=9)
    part.write(folder / name_of(1))
    assert catalogue.find_adopted(folder / named) is None


def test_folders_of_several_models_are_not_guessed(folder: Path) -> None:
    """Parts beside another file are two models."""
    small_llama().write(folder / "other.gguf")

    assert locate(folder).kind is None
    assert "has 5 GGUF files; name one of them" in locate(folder).reason
