"""The files of a model folder: plain names, regular files, of a size that memory can hold."""

import os
import re
import stat
from pathlib import Path

from aobatch.models.checks import refusal, shown

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def read_regular(path: Path, max_bytes: int) -> bytes:
    """Read a regular file of at most so many bytes; ModelError if it is anything else.

    A link is not followed: what lies in a model folder is the model's own, so that a folder from
    elsewhere cannot name the user's other files as its parts.
    """
    try:
        # A pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise refusal(path, "it is a symbolic link") from error
        raise refusal(path, f"it cannot be opened ({error.strerror})") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise refusal(path, "it is not a regular file")
        content = file.read(max_bytes + 1) if status.st_size <= max_bytes else b""
        if max(status.st_size, len(content)) > max_bytes:
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
        raise refusal(path, f"it cannot be opened ({error.strerror})") from error
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "it is not a regular file")
    if status.st_nlink != 1:
        raise refusal(path, "it is a hard link, which could be any file; put a copy in its place")
    return status.st_size
