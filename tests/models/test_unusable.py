"""Laws of what lies at a path and is no model: it is not said to be missing."""

import os
from pathlib import Path

import pytest
from family_files import published

from aobatch.errors import ModelError, ModelNotFoundError
from aobatch.models.store import catalogue
from aobatch.models.store.locate import read_checkpoint

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12345\n"
FOLDERS = {
    "pickles": ({"config.json": "{}", "pytorch_model.bin": "x"}, "are pickles, .* never read"),
    "no weights": ({"config.json": "{}"}, "config.json has no weights beside it"),
    "no description": ({"model.safetensors": "x"}, "have no config.json beside them"),
    "adapter": ({"adapter_model.safetensors": "x"}, "have no config.json beside them"),
    "several": ({"a.gguf": "GGUF", "b.gguf": "GGUF"}, "has 2 GGUF files; name one of them"),
    "anything": ({"letters.txt": "dear"}, "has no weights"),
    "nothing": ({}, "has no weights"),
}
FILES = {
    "pointer.gguf": (POINTER, "only a pointer; .* `git lfs pull`"),
    "model.safetensors": ("x", "is a part of one; name its folder"),
    "letters.txt": ("dear", "neither a GGUF file nor an exported graph"),
    "empty.gguf": ("", "neither a GGUF file nor an exported graph"),
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give an empty folder for models, and a working folder."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)


def check(path: Path, reason: str) -> None:
    """Check that the reason is said wherever a model is named."""
    with pytest.raises(ModelNotFoundError, match=reason) as caught:
        catalogue.resolve(str(path))
    assert "does not exist" not in str(caught.value)
    with pytest.raises(ModelError, match=reason):
        read_checkpoint(path)


@pytest.mark.parametrize(("files", "reason"), FOLDERS.values(), ids=FOLDERS)
def test_folders_say_what_they_lack(files: dict[str, str], reason: str, tmp_path: Path) -> None:
    """A folder without a part of a model says which part that is."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_text(content)

    check(folder, f"folder is no model: .*{reason}")


@pytest.mark.parametrize(("name", "content", "reason"), [(k, *v) for k, v in FILES.items()])
def test_files_say_what_they_are(name: str, content: str, reason: str, tmp_path: Path) -> None:
    """A file that is no model says what it is instead."""
    (tmp_path / name).write_text(content)

    check(tmp_path / name, f"{name} is no model: .*{reason}")


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    """What is neither a file nor a folder is not opened."""
    os.mkfifo(tmp_path / "pipe")

    check(tmp_path / "pipe", "pipe is no model: it is neither a file nor a folder")


def test_weights_of_a_folder_may_be_pointers_or_lack_their_index(tmp_path: Path) -> None:
    """A clone without its large files is told apart from a broken one."""
    folder = published("llama", tmp_path / "tiny")
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001-of-00001.safetensors")
    with pytest.raises(ModelError, match=r"tiny has neither model\.safetensors nor .*index\.json"):
        read_checkpoint(folder)

    weights.write_text(POINTER)
    with pytest.raises(
        ModelError, match=r"model\.safetensors is only a pointer; .* `git lfs pull`$"
    ):
        read_checkpoint(folder)


def test_what_could_be_a_model_says_how(tmp_path: Path) -> None:
    """A line that names a folder not converted yet, or one without its path, hears what to do."""
    published("llama", tmp_path / "tiny")

    with pytest.raises(ModelNotFoundError, match=r"`aobatch models import \./tiny NAME`"):
        catalogue.resolve("./tiny")
    with pytest.raises(ModelNotFoundError, match=r"there is no model tiny; .* name it \./tiny"):
        catalogue.resolve("tiny")
