"""Files that are written whole or not at all, locked, and told apart by their checksums."""

import errno
import fcntl
import hashlib
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from aobatch.errors import BusyError, JobError, OutputError, StorageError

PATIENCE_SECONDS = 0.2
_BLOCK = 2**20
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
        # What a killed run left under this name is nobody's: the job's lock is ours.
        temporary.unlink(missing_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(temporary, flags, 0o666)
        try:
            if path.exists():
                os.fchmod(descriptor, stat.S_IMODE(path.stat().st_mode))
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


def check_creatable(path: Path, role: str, *, or_device: bool = False) -> None:
    """Refuse a name under which `replacing` could make no file; OutputError says why."""
    with storage_errors(path):
        mode = None
        with suppress(FileNotFoundError, NotADirectoryError):
            mode = path.stat().st_mode
        if mode is not None and not stat.S_ISREG(mode):
            if or_device and not stat.S_ISDIR(mode):
                return
            message = f"{role} {path} is not a regular file; name a file"
            raise OutputError(message)
        target = Path(os.path.realpath(path)) if path.is_symlink() else path
        if not target.parent.is_dir():
            message = f"folder {target.parent} of {role} does not exist; create it"
            raise OutputError(message)
        if not os.access(target.parent, os.W_OK | os.X_OK, effective_ids=True):
            message = f"{path} cannot be created: folder {target.parent} takes no files"
            raise OutputError(message)
        # The temporary file has the longer name.
        with suppress(FileNotFoundError):
            _temporary(target).lstat()


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.aobatch.tmp")


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


@contextmanager
def hold_lock(path: Path) -> Iterator[None]:
    """Hold the lock while the block runs, signed with who holds it.

    BusyError names the run that holds it, OutputError says why the file cannot be opened, and
    StorageError why it cannot be written. The kernel drops the lock with the process, so a killed
    run never leaves it behind.
    """
    with storage_errors(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with storage_errors(path):
            _acquire(descriptor, path)
            started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
            holder = {"pid": os.getpid(), "host": socket.gethostname(), "started": started}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Hold a lock while the block runs, waiting for whoever holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def lock_holder(path: Path) -> str | None:
    """Name the run that holds a lock, None if nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # A run that begins in this very moment tries again, see `hold_lock`.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _signature(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _acquire(descriptor: int, path: Path) -> None:
    """Take the lock, trying for a little: whoever asks for the status holds it for a moment."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            if time.monotonic() > deadline:
                holder = _signature(descriptor)
                message = f"{holder} is working on {path.parent}; run again when it ended"
                raise BusyError(message) from error
            time.sleep(PATIENCE_SECONDS / 10)


def _signature(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']} (since {holder['started']})"
    except (ValueError, KeyError, TypeError):
        # The holder has the lock but has not signed it yet.
        return "another run"


def file_digest(path: Path, advance: Callable[[int], None] = lambda _: None) -> str:
    """Take the sha256 of a file, in hexadecimal; `advance(bytes)` follows the work."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def file_digests(
    paths: Sequence[Path], advance: Callable[[int], None] = lambda _: None
) -> tuple[str, ...]:
    """Take those of several files, with all cores at work; `advance` is called by one at a time."""
    lock = Lock()

    def locked(num_bytes: int) -> None:
        with lock:
            advance(num_bytes)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return tuple(threads.map(lambda path: file_digest(path, locked), paths))


def joined_digest(digests: Sequence[str]) -> str:
    """Join the checksums of files, in their order, to one; that of a lone file is its own."""
    return (
        digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
    )


def cache_folder() -> Path:
    """Name the folder of what this user's runs may keep; RuntimeError if there is no home."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aobatch"
