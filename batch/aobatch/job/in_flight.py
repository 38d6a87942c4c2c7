"""The requests under way, in a file that outlives the process: what a death may have been due to.

Keys are appended as requests are taken up. A run that ends in order empties the file; what the next
run finds in it, and has no result, is what the process was at when it died.
"""

import os
from pathlib import Path
from typing import Self

from aobatch.errors import JobError, StorageError
from aobatch.files import storage_errors

_KEY_BYTES = 16


class InFlight:
    """The requests that a run has taken up and not answered; a context that a run works in.

    What is left if the process dies stays noted. So it does when the block fails in a way that
    nobody meant, exit code 70, which may be due to a request as well.
    """

    def __init__(self, path: Path) -> None:
        """Open the file of a job's state folder; OutputError or StorageError if that fails."""
        self._path = path
        self._open: set[str] = set()
        with storage_errors(path):
            # No fsync: only the end of a process is to be outlived, and the kernel has the bytes.
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        try:
            if isinstance(error, JobError):
                is_meant = error.exit_code != JobError.exit_code
            else:
                is_meant = error is None or isinstance(error, KeyboardInterrupt)
            if is_meant:
                self.clear()
        finally:
            os.close(self._descriptor)

    def left_behind(self) -> list[str]:
        """Read the keys that an earlier run had taken up when it died."""
        with storage_errors(self._path), self._path.open("rb") as stream:
            keys = iter(lambda: stream.read(_KEY_BYTES), b"")
            return [key.hex() for key in keys if len(key) == _KEY_BYTES]

    def begin(self, key: str) -> None:
        """Note that a request is taken up; StorageError if there is no room for it."""
        with storage_errors(self._path):
            written = os.write(self._descriptor, bytes.fromhex(key))
        if written != _KEY_BYTES:
            message = f"{self._path} cannot be written: the disk is full; make room and run again"
            raise StorageError(message)
        self._open.add(key)

    def end(self, key: str) -> None:
        """Note that a request is answered."""
        self._open.discard(key)

    def take_open(self) -> list[str]:
        """Forget the requests that are taken up and not answered, and give them."""
        taken, self._open = sorted(self._open), set()
        return taken

    def clear(self) -> None:
        """Forget all requests: nothing is under way."""
        with storage_errors(self._path):
            os.ftruncate(self._descriptor, 0)
        self._open.clear()
