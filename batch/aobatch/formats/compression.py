"""Byte streams of files that may be compressed, as their suffix says."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from aobatch.errors import InputError, InputMissingError
from aobatch.formats import COMPRESSIONS
from aobatch.formats.remote import Location, Remote, check_readable, open_stream, size_of

_RENAMED = "give its name the suffix {}"
_BEGINNINGS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b\x08", "gzip", _RENAMED.format(".gz")),
    (b"\x28\xb5\x2f\xfd", "zstd", _RENAMED.format(".zst")),
    (b"BZh9", "bz2", _RENAMED.format(".bz2")),
    (b"\x04\x22\x4d\x18", "lz4", _RENAMED.format(".lz4")),
    (b"\xfd7zXZ", "xz", "unpack it with xz -d"),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"PAR1", "Parquet", "give its name the suffix .parquet alone"),
    (b"\xff\xfe\0\0", "UTF-32", "save it as UTF-8"),
    (b"\0\0\xfe\xff", "UTF-32", "save it as UTF-8"),
    (b"\xff\xfe", "UTF-16", "save it as UTF-8"),
    (b"\xfe\xff", "UTF-16", "save it as UTF-8"),
    (b"{\0", "UTF-16", "save it as UTF-8"),
    (b"\0{", "UTF-16", "save it as UTF-8"),
    (b"version https://git-lfs", "a pointer of Git LFS", "fetch the file with git lfs pull"),
    (b"<!DOCTYPE", "a page of HTML", "download the file itself"),
    (b"<!doctype", "a page of HTML", "download the file itself"),
    (b"<html", "a page of HTML", "download the file itself"),
)
"""How files begin that are not what their names say, what they are, and what to do."""
_SKIPPED = tuple(bytes([0x50 + number]) + b"\x2a\x4d\x18" for number in range(16))
"""How files of zstd and lz4 may begin as well."""


def read_head(path: Location, num_bytes: int) -> bytes:
    """Read the first plain bytes of a file; InputError if they are not as its name says."""
    check_input(path)
    compression = _compression(path)
    with _reading(path), _opened(path) as file:
        head = file.read(num_bytes)
    _check_beginning(path, head, compression)
    if compression is None:
        return bytes(head)
    with open_input(path) as stream:
        head = stream.read(num_bytes)
    _check_beginning(path, head, None)
    return head


def refuse_other_kind(path: Path, num_bytes: int) -> None:
    """Say what a file is that could not be read as Parquet, if that can be seen."""
    with path.open("rb") as file:
        head = file.read(num_bytes)
    if any(map(_is_object, head.split(b"\n"))):
        message = f"{path} has lines of JSON and is not Parquet; give its name the suffix .jsonl"
        raise InputError(message)
    _check_beginning(path, head, "Parquet", tells_unknown=False)


def _check_beginning(
    path: Location, head: bytes, compression: str | None, *, tells_unknown: bool = True
) -> None:
    found = next((row for row in _BEGINNINGS if head.startswith(row[0])), None)
    if (
        found is not None
        and found[1] != compression
        and not any(map(_is_object, head.split(b"\n")))
    ):
        packed = "" if compression is None else f", not {compression}"
        message = f"{path} is {found[1]}{packed}, and no request can be read; {found[2]}"
        raise InputError(message)
    is_other = found is None and head and compression and not head.startswith(_SKIPPED)
    if is_other and tells_unknown:
        message = (
            f"{path} is not compressed with {compression}; leave {path.suffix} out of its name"
        )
        raise InputError(message)


def _is_object(line: bytes) -> bool:
    """Say whether a line may be a request: it is then the lines around it that are wrong."""
    try:
        return line.strip().startswith(b"{") and type(json.loads(line.decode())) is dict
    except (ValueError, RecursionError):
        return False


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
    with (
        _reading(path),
        _opened(path) as file,
        pa.input_stream(file, compression=compression) as stream,
    ):
        yield cast("BinaryIO", stream)


@contextmanager
def _reading(path: Location) -> Iterator[None]:
    try:
        yield
    except PermissionError as error:
        message = f"{path} cannot be read: permission denied"
        raise InputError(message) from error
    except OSError as error:
        if "too much memory" in str(error):
            message = (
                f"{path} cannot be decompressed in the memory that is allowed, as it was written "
                "with zstd --long or --ultra; compress it again without"
            )
            raise InputError(message) from error
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
