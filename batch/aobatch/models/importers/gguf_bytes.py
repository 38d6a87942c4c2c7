"""The bytes of a GGUF file, read in order and never beyond their end."""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

from aobatch.errors import ModelError

MAX_FILE_BYTES = 64 * 2**30
"""The largest file that is read."""

_MAX_TEXTS = 2**22
_MAX_TEXT_BYTES = 16 * 2**20


class ByteReader:
    """Reads little-endian values; nothing is allocated before what is stated is known to be there.

    Every method raises ModelError that says what did not fit.
    """

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._texts_left = _MAX_TEXTS
        self.size = size
        self.path = path
        self.position = 0

    @property
    def remaining(self) -> int:
        """How many bytes are left."""
        return self.size - self.position

    def skip(self, count: int, what: str) -> None:
        """Pass over bytes."""
        self._claim(count, what)
        self._file.seek(self.position)

    def take(self, count: int, what: str) -> bytes:
        """Give the next bytes."""
        self._claim(count, what)
        data = self._file.read(count)
        if len(data) < count:
            self.refuse("it became shorter while it was read")
        return data

    def uint32(self, what: str) -> int:
        """Give the next four bytes as a number."""
        return int.from_bytes(self.take(4, what), "little")

    def uint64(self, what: str) -> int:
        """Give the next eight bytes as a number."""
        return int.from_bytes(self.take(8, what), "little")

    def scalar(self, code: str, what: str) -> int | float | bool:
        """Give a number or a truth value by its struct code."""
        data = self.take(struct.calcsize(f"<{code}"), what)
        if code == "?" and data not in (b"\0", b"\1"):
            self.refuse(f"{what} is neither true nor false")
        value: int | float | bool = struct.unpack(f"<{code}", data)[0]
        return value

    def text(self, what: str, max_bytes: int = _MAX_TEXT_BYTES) -> str:
        """Give a text, which has its length ahead of it."""
        return self.decoded(self.text_length(what, max_bytes), what)

    def text_length(self, what: str, max_bytes: int = _MAX_TEXT_BYTES) -> int:
        """Give the length that is ahead of a text."""
        length = self.uint64(what)
        if length > max_bytes:
            self.refuse(f"{what} states {length} bytes, at most {max_bytes} are allowed")
        self._texts_left -= 1
        if self._texts_left < 0:
            self.refuse(f"it holds more than {_MAX_TEXTS} texts")
        return length

    def decoded(self, count: int, what: str) -> str:
        """Give the next bytes as a text."""
        data = self.take(count, what)
        try:
            return data.decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} is not valid UTF-8")

    def skip_texts(self, count: int, what: str) -> None:
        """Pass over that many texts."""
        for _ in range(count):
            self.skip(self.text_length(what), what)

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says why this file is refused."""
        message = f"{self.path} is not a readable GGUF file: {reason}"
        raise ModelError(message)

    def _claim(self, count: int, what: str) -> None:
        if count > self.remaining:
            self.refuse(
                f"it ends within {what}, which needs {count} bytes at byte {self.position} of "
                f"{self.size}"
            )
        self.position += count


@contextmanager
def open_bytes(path: Path, position: int = 0) -> Iterator[ByteReader]:
    """Open a file at a position; ModelError if it is no regular file, too large or not readable."""
    try:
        if not path.is_file():
            message = f"{path} is not a file; give the path of a GGUF file"
            raise ModelError(message)
        with path.open("rb") as file:
            reader = ByteReader(file, os.fstat(file.fileno()).st_size, path)
            if reader.size > MAX_FILE_BYTES:
                reader.refuse(f"it has {reader.size} bytes, at most {MAX_FILE_BYTES} are read")
            reader.skip(position, "what was read before")
            yield reader
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ModelError(message) from error
