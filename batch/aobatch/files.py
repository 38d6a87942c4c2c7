"""Checksums of files."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import BusyError, JobError, OutputError, StorageError

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


PATIENCE_SECONDS = 0.2


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock while the block runs.

    BusyError names the run that holds it, OutputError says why the file cannot be opened, and
    StorageError why it cannot be written. The kernel drops the lock with the process, so a killed
    run never leaves it behind.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with storage_errors(path):
            _acquire(descriptor, path)
            _sign(descriptor)
        yield
    finally:
        os.close(descriptor)


def describe_holder(descriptor: int) -> str:
    """Name the run that has signed a lock file."""
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
    except (ValueError, KeyError, TypeError):
        # The holder has the lock but has not signed it yet.
        return "another run"


def _acquire(descriptor: int, path: Path) -> None:
    """Take the lock, trying for a little: whoever asks for the status holds it for a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = describe_holder(descriptor)
                message = f"{holder} is working on {path.parent}; run again when it ended"
                raise BusyError(message) from error
            time.sleep(PATIENCE_SECONDS / 10)
        else:
            return


def _sign(descriptor: int) -> None:
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def file_digest(path: Path) -> str:
    """Give the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(paths: Sequence[Path]) -> str:
    """Give the sha256 of one file, or of those of several in their order."""
    if len(paths) == 1:
        return file_digest(paths[0])
    return hashlib.sha256("".join(map(file_digest, paths)).encode()).hexdigest()
