"""Byte streams of files that may be compressed, as their suffix says."""

import bz2
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from aobatch.errors import InputError, InputMissingError
from aobatch.formats import COMPRESSIONS
from aobatch.formats.remote import Location, Remote, check_readable, open_stream, size_of

BLOCK_BYTES = 300_000
"""Larger ones make files a tenth smaller and take a fifth longer."""


class BlockWriter:
    """A stream whose bytes reach another one compressed, block by block and in order."""

    def __init__(self, stream: BinaryIO, pool: ThreadPoolExecutor, max_blocks: int) -> None:
        self._stream = stream
        self._pool = pool
        self._max_blocks = max_blocks
        self._begun = bytearray()
        self._blocks: deque[Future[bytes]] = deque()
        self._is_empty = True

    def write(self, data: bytes) -> int:
        """Take bytes; OSError if the stream below does not take what they became."""
        self._begun += data
        while len(self._begun) >= BLOCK_BYTES:
            self._end_block()
        return len(data)

    def finish(self) -> None:
        """Write all that is left; a file of no bytes at all would be no bz2."""
        if self._begun or self._is_empty:
            self._end_block()
        while self._blocks:
            self._write_block()

    def _end_block(self) -> None:
        block = bytes(self._begun[:BLOCK_BYTES])
        del self._begun[:BLOCK_BYTES]
        self._is_empty = False
        if len(self._blocks) == self._max_blocks:
            self._write_block()
        self._blocks.append(self._pool.submit(bz2.compress, block))

    def _write_block(self) -> None:
        self._stream.write(self._blocks.popleft().result())


@contextmanager
def compressed_bz2(stream: BinaryIO, num_threads: int | None = None) -> Iterator[BlockWriter]:
    """Give a writer whose bytes are all in the stream when the block ends without an exception."""
    num_threads = num_threads or len(os.sched_getaffinity(0))
    pool = ThreadPoolExecutor(num_threads, "bz2")
    try:
        writer = BlockWriter(stream, pool, 2 * num_threads)
        yield writer
        writer.finish()
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def open_input(path: Location) -> Iterator[BinaryIO]:
    """Open a file for reading its plain bytes; errors say what is wrong with the file."""
    if isinstance(path, Path):
        check_input(path)
    num_bytes = path.stat().st_size if isinstance(path, Path) else size_of(path)
    if _compression(path) and not num_bytes:
        message = f"{path} cannot be read to its end: it has no bytes, and compressed nothing has"
        raise InputError(message)
    try:
        with (
            _opened(path) as file,
            pa.input_stream(file, compression=_compression(path)) as stream,
        ):
            yield cast("BinaryIO", stream)
    except PermissionError as error:
        message = f"{path} cannot be read: permission denied"
        raise InputError(message) from error
    except OSError as error:
        message = f"{path} cannot be read to its end: {error}"
        raise InputError(message) from error


@contextmanager
def open_output(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Give a stream whose bytes reach the given one, compressed if path asks for it."""
    compression = _compression(path)
    if compression is None:
        yield stream
    elif compression == "bz2":
        with compressed_bz2(stream) as blocks:
            yield cast("BinaryIO", blocks)
    else:
        with pa.output_stream(stream, compression=compression) as compressed:
            yield cast("BinaryIO", compressed)


def check_input(path: Location) -> None:
    """Refuse what is not a regular file, which could not be read a second time."""
    if isinstance(path, Remote):
        check_readable(path)
        return
    try:
        is_there = exists(path)
    except OSError as error:
        message = f"input {path} cannot be read: {error.strerror}"
        raise InputError(message) from error
    if not is_there:
        message = f"input {path} does not exist"
        raise InputMissingError(message)
    if path.is_dir():
        message = f"input {path} is a folder; name the files in it"
        raise InputError(message)
    if not path.is_file():
        message = f"input {path} is not a regular file; pipe it in and name it '-'"
        raise InputError(message)


def exists(path: Path) -> bool:
    """Say whether there is something under a name; OSError if that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _opened(path: Location) -> pa.NativeFile:
    if isinstance(path, Remote):
        return pa.PythonFile(open_stream(path), "r")
    # By its bytes: a name need not be text.
    return pa.OSFile(os.fsencode(path))


def _compression(path: Location) -> str | None:
    return COMPRESSIONS.get(path.suffix.lower())
