"""Places with too little room: a small file system, or a limit on the size of each file."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SmallRoom:
    """A folder in which not much can be kept, until it is widened."""

    folder: Path
    limit: int | None = None
    """How large each file may become if the folder itself has no bound."""
    is_mounted: bool = False

    def widen(self) -> None:
        """Make room, and let it be used."""
        if self.is_mounted:
            subprocess.run(["mount", "-o", "remount,rw,size=256m", self.folder], check=True)
        else:
            self.folder.chmod(0o755)

    def forbid_writing(self) -> None:
        """Let nothing be written."""
        if self.is_mounted:
            subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)
        else:
            self.folder.chmod(0o555)


@contextmanager
def small_room(folder: Path, num_bytes: int) -> Iterator[SmallRoom]:
    """Give an empty folder with room for so many bytes; without the right to mount, for each file.

    What is in it is gone at the end.
    """
    folder.mkdir()
    if not _may_mount():
        yield SmallRoom(folder, num_bytes)
        return
    options = f"size={num_bytes},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield SmallRoom(folder, is_mounted=True)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _may_mount() -> bool:
    if os.geteuid() != 0:
        return False
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0
