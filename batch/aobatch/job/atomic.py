"""Files that appear or change only whole."""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import JobError, OutputError, StorageError

_CANNOT_CREATE = {
    errno.EACCES,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose bytes become the file at path when the block ends well, or not at all.

    The caller sees to it that nobody else writes the same path. OutputError if nothing can be
    created beside it, StorageError if the bytes cannot be kept. A link stays a link; the file that
    it names is replaced.
    """
    path = path.resolve()
    temporary = _temporary(path)
    with storage_errors(path):
        descriptor = _create(temporary, path)
        try:
            with os.fdopen(os.dup(descriptor), "wb") as stream:
                yield stream
            os.fsync(descriptor)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            os.close(descriptor)
            temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Make content the file at path, at once."""
    with replacing(path) as stream:
        stream.write(content)


def check_name(path: Path) -> None:
    """Refuse a name that is too long for `replacing`, whose temporary file has a longer one."""
    with storage_errors(path), suppress(FileNotFoundError):
        _temporary(path).lstat()


def sync_folder(folder: Path) -> None:
    """Make the names in a folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Say so if a file, or what lies in a folder, cannot be written in the block."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> JobError:
    """Say in one sentence why a file could not be written."""
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in _CANNOT_CREATE:
        return OutputError(f"{path} cannot be created: {reason}")
    return StorageError(f"{path} cannot be written: {reason}; make room and run again")


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.aobatch.tmp")


def _create(temporary: Path, path: Path) -> int:
    # What a killed run left under this name is nobody's: the job's lock is ours.
    temporary.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, 0o666)
    if path.exists():
        os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
    return descriptor
