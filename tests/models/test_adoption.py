"""Laws of files that are used as they lie: each content is converted once."""

import json
import os
import shutil
from pathlib import Path

import pytest
from family_files import published

from aobatch.models.store import catalogue as adoption
from aobatch.models.store.catalogue import adopt, find_adopted
from aobatch.models.store.folder import ModelFolder
from aobatch.runners.scoring import score_texts


@pytest.fixture
def source(tiny_gguf: Path, tmp_path: Path) -> Path:
    """Give a GGUF file that may be changed."""
    return Path(shutil.copy(tiny_gguf, tmp_path / "my story (1).gguf"))


def adopted(source: Path) -> tuple[ModelFolder, bool]:
    """Give the model of a file, and whether it was made now."""
    found = adopt(source, lambda *_: None, score_texts)
    return found.folder, found.is_new


def models(home: Path) -> list[str]:
    """Name the models that there are."""
    return sorted(path.parent.name for path in home.glob("*/model.toml"))


def test_a_file_is_converted_once(
    home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second time nothing is read but the file's size and time."""
    assert find_adopted(source) is None
    first, is_new = adopted(source)
    monkeypatch.setattr(adoption, "read_checkpoint", None)

    assert is_new
    assert adopted(source) == (first, False)
    assert find_adopted(source) == first
    assert models(home) == [first.manifest.name]
    assert first.manifest.name.startswith("my-story-1-")
    assert first.manifest.precision == "int8"


def test_a_copy_is_the_same_model(
    home: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another place, name or time of the same content is read, and not converted again."""
    first, _ = adopted(source)
    monkeypatch.setattr("aobatch.models.convert.convert.convert", None)
    (tmp_path / "elsewhere").mkdir()
    copy = Path(shutil.copy(source, tmp_path / "elsewhere"))
    renamed = Path(shutil.copy(source, tmp_path / "tale.gguf"))
    os.utime(source, (1, 1))

    assert adopted(copy) == adopted(renamed) == adopted(source) == (first, False)


def test_another_content_is_another_model(home: Path, tmp_path: Path) -> None:
    """Whatever file of a folder changes, the next model has a name of its own."""
    folder = published("llama", tmp_path / "tiny")
    first, _ = adopted(folder)
    path = folder / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"eos_token_id": [0, 7]}))

    assert find_adopted(folder) is None
    second, is_new = adopted(folder)
    assert is_new
    assert second.manifest.eos_token_ids == (0, 7)
    assert models(home) == sorted([first.manifest.name, second.manifest.name])


def test_a_lost_model_is_made_again(home: Path, source: Path) -> None:
    """A note of a model that is no longer there is no model."""
    first, _ = adopted(source)
    shutil.rmtree(first.path)

    assert find_adopted(source) is None
    assert adopted(source) == (first, True)


def test_a_damaged_note_leads_nowhere(home: Path, source: Path) -> None:
    """A note is a hint: what it says is held against the file and the folder of models."""
    first, _ = adopted(source)
    for note in (b"", b"[]", b'{"stamps": {}, "name": "../../etc"}'):
        adoption._note_path(source).write_bytes(note)

        assert find_adopted(source) is None
        assert adopted(source) == (first, False)
