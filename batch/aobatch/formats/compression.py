"""Byte streams of files that may be compressed, as their suffix says."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from aobatch.errors import InputError, InputMissingError
from aobatch.formats import COMPRESSIONS
from aobatch.formats.remote import Location, Remote, check_readable, open_stream, size_of


@contextmanager
def open_input(path: Location) -> Iterator[BinaryIO]:
    """Open a file for reading its plain bytes; errors say what is wrong with the file."""
    if isinstance(path, Path):
        check_input(path)
    compression = _compression(path)
    num_bytes = path.stat().st_size if isinstance(path, Path) else size_of(path)
    if compression and not num_bytes:
        message = f"{path} cannot be read to its end: it has no bytes, and compressed nothing has"
        raise InputError(message)
    try:
        with _opened(path) as file, pa.input_stream(file, compression=compression) as stream:
            yield cast("BinaryIO", stream)
    except PermissionError as error:
        message = f"{path} cannot be read: permission denied"
        raise InputError(message) from error
    except OSError as error:
        message = f"{path} cannot be read to its end: {error}"
        raise InputError(message) from error


@contextmanager
def open_output(stream: BinaryIO, path: Path) -> Iterator[BinaryIO]:
    """Open a stream whose bytes reach the given one, compressed if path asks for it."""
    compression = _compression(path)
    if compression is None:
        yield stream
        return
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
