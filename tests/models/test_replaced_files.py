"""Laws of folders that were changed behind a model's back: noticed at opening where it is cheap."""

import os
import shutil
from pathlib import Path

import pytest
from msgspec.structs import replace

from aobatch.errors import ModelError
from aobatch.models.store.folder import (
    FILES,
    ModelFolder,
    open_folder,
    read_folder,
    read_manifest,
    write_manifest,
)


@pytest.fixture
def folder(tiny_int8: ModelFolder, tmp_path: Path) -> Path:
    """Give a copy of the tiny model that may be damaged."""
    return Path(shutil.copytree(tiny_int8.path, tmp_path / "model"))


@pytest.mark.parametrize("name", FILES)
def test_file_of_another_size_is_noticed(folder: Path, name: str) -> None:
    """The message names the file and the command that looks closer."""
    with (folder / name).open("ab") as file:
        file.write(b"\n")

    with pytest.raises(ModelError, match=rf"{name} has \d+ bytes, not \d+; .*verify tiny-int8"):
        open_folder(folder)
    assert read_folder(folder).manifest.name == "tiny-int8"


def test_missing_weights_are_noticed(folder: Path) -> None:
    """A folder that lost a file is not opened."""
    (folder / "model.onnx.data").unlink()

    with pytest.raises(ModelError, match=r"model.onnx.data is missing"):
        open_folder(folder)


def test_copies_and_times_are_no_change(folder: Path) -> None:
    """A copied folder, whose files are as old as they may be, is the same model."""
    for name in FILES:
        os.utime(folder / name, (0, 0))
    (folder / "notes.txt").write_text("mine")

    assert open_folder(folder).manifest == read_manifest(folder / "model.toml")


def test_files_elsewhere_are_not_looked_at(folder: Path) -> None:
    """A description that lists other files than a model's leads nowhere."""
    manifest = read_manifest(folder / "model.toml")
    files = manifest.files | {"../../etc/passwd": manifest.files["model.onnx"]}
    write_manifest(folder / "model.toml", replace(manifest, files=files))

    assert open_folder(folder).manifest.files == files
