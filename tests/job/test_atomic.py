"""Laws of files that change only whole."""

import os
import stat
from pathlib import Path

import pytest

from aobatch.errors import OutputError, StorageError
from aobatch.files import replacing, write_whole


def test_file_appears_with_all_bytes(tmp_path: Path) -> None:
    """Nothing stands under the name before the block ends."""
    path = tmp_path / "out"
    with replacing(path) as stream:
        stream.write(b"all")
        assert not path.exists()

    assert path.read_bytes() == b"all"
    assert [*tmp_path.iterdir()] == [path]


def test_failed_block_changes_nothing(tmp_path: Path) -> None:
    """After an exception the old bytes are there, and nothing beside them."""
    path = tmp_path / "out"
    path.write_bytes(b"old")

    with pytest.raises(UnicodeEncodeError), replacing(path) as stream:
        stream.write(b"new" + "\ud800".encode())

    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]


def test_remains_of_a_killed_run_are_replaced(tmp_path: Path) -> None:
    """A temporary file that a killed run left behind is in nobody's way."""
    (tmp_path / ".out.aobatch.tmp").write_bytes(b"torn")

    write_whole(tmp_path / "out", b"new")

    assert [*tmp_path.iterdir()] == [tmp_path / "out"]


def test_permissions_of_the_old_file_are_kept(tmp_path: Path) -> None:
    """A replaced file stays readable for those who could read it."""
    path = tmp_path / "out"
    path.touch()
    path.chmod(0o604)

    write_whole(path, b"new")

    assert stat.S_IMODE(path.stat().st_mode) == 0o604


def test_missing_folder_cannot_be_created_in(tmp_path: Path) -> None:
    """A file in a folder that is not there is an output error."""
    with pytest.raises(OutputError, match="cannot be created: No such file"):
        write_whole(tmp_path / "no" / "out", b"")


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A disk that fails at any late step leaves the old bytes."""
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    with monkeypatch.context() as patch:
        patch.setattr(os if name == "fsync" else Path, name, fail)
        with pytest.raises(StorageError, match="No space left"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
