"""One run at a time: an advisory lock on a file in a job's state folder."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from aobatch.errors import BusyError
from aobatch.job.atomic import storage_errors

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
