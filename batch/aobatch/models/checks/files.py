"""The files of a model folder: plain names, regular files, of a size that memory can hold."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aobatch.models.checks import refusal, shown

POINTER = b"version https://git-lfs"
POINTER_ADVICE = "is only a pointer; get the file itself with `git lfs pull`"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@contextmanager
def open_regular(path: Path, *, follows_links: bool = False) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and give its size; ModelError if it is anything else.

    A link is followed only where it is asked for. What lies in a model folder is the model's own,
    so that a folder from elsewhere cannot name the user's other files as its parts.
    """
    link = 0 if follows_links else os.O_NOFOLLOW
    try:
        # A pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | link)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else f"{error.strerror}"
        raise refusal(path, reason) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal(path, "it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def read_regular(path: Path, max_bytes: int, *, follows_links: bool = False) -> bytes:
    """Read a regular file of at most so many bytes; ModelError if it is anything else."""
    with open_regular(path, follows_links=follows_links) as (file, size):
        content = file.read(min(size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise refusal(path, f"it has more than {max_bytes} bytes")
    return content


def neighbour(path: Path, name: str) -> Path:
    """Give the file of a plain name beside another; ModelError for any way out of the folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise refusal(path, f"it names the file {shown(name)}, which is no plain name")
    return path.with_name(name)


def owned_size(path: Path) -> int:
    """Give the size of a regular file that has no other name; ModelError if it is anything else.

    ONNX Runtime reads through hard links, which an archive can make to files of the user's.
    """
    try:
        status = path.lstat()
    except OSError as error:
        raise refusal(path, f"{error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "it is not a regular file")
    if status.st_nlink != 1:
        raise refusal(path, "it is a hard link, which could be any file; put a copy in its place")
    return status.st_size
