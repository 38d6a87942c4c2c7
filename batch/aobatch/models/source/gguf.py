"""GGUF files checked from the first byte to the last tensor, before anything else reads them."""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

from aobatch.errors import ModelError
from aobatch.models.checks import shown
from aobatch.models.source.decoder import memory_budget
from aobatch.models.source.fields import Fields

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


_SCALARS: Mapping[int, str] = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
"""The struct code of each type of number."""
_TEXT, _ARRAY = 8, 9

_MAX_KEY_BYTES = _MAX_KEPT_BYTES = 1024
_CHUNK = 65_536

# Templates are programs; nothing here runs or even reads them.
_NEVER_READ = "tokenizer.chat_template"


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text that is left in the file: a template, or longer than anything that is asked for."""

    num_bytes: int

    def __repr__(self) -> str:
        return f"a text of {self.num_bytes} bytes"


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in the file; to iterate over it reads it piece by piece."""

    path: Path
    what: str
    """How errors call it."""
    kind: int
    count: int
    position: int

    def __len__(self) -> int:
        return self.count

    def __repr__(self) -> str:
        return f"an array of {self.count} {'texts' if self.kind == _TEXT else 'numbers'}"

    def __iter__(self) -> Iterator[object]:
        with open_bytes(self.path, self.position) as reader:
            if self.kind == _TEXT:
                for _ in range(self.count):
                    yield reader.text(self.what)
                return
            code = _SCALARS[self.kind]
            for start in range(0, self.count, _CHUNK):
                length = min(_CHUNK, self.count - start)
                data = reader.take(length * struct.calcsize(f"<{code}"), self.what)
                yield from struct.unpack(f"<{length}{code}", data)


def read_metadata(reader: ByteReader, count: int) -> dict[str, object]:
    """Read that many keys with their values; ModelError for the first that is not as it has to be.

    Values are numbers, truth values, texts, StoredTexts and StoredArrays.
    """
    values: dict[str, object] = {}
    for _ in range(count):
        key = reader.text("a key", _MAX_KEY_BYTES)
        if not key or key in values:
            reader.refuse(f"the key {shown(key)} is there twice" if key else "a key is empty")
        values[key] = _value(reader, key)
    return values


def _value(reader: ByteReader, key: str) -> object:
    what = f"the value of {shown(key)}"
    kind = reader.uint32(what)
    if kind == _ARRAY:
        return _array(reader, what)
    if kind in _SCALARS:
        return reader.scalar(_SCALARS[kind], what)
    if kind != _TEXT:
        reader.refuse(f"{what} has the unknown type {kind}")
    length = reader.text_length(what)
    if length > _MAX_KEPT_BYTES or key.startswith(_NEVER_READ):
        reader.skip(length, what)
        return StoredText(length)
    return reader.decoded(length, what)


def _array(reader: ByteReader, what: str) -> StoredArray:
    kind, count = reader.uint32(what), reader.uint64(what)
    if kind not in (*_SCALARS, _TEXT):
        nested = "an array of arrays" if kind == _ARRAY else f"an array of the unknown type {kind}"
        reader.refuse(f"{what} is {nested}")
    array = StoredArray(reader.path, what, kind, count, reader.position)
    if kind == _TEXT:
        if 8 * count > reader.remaining:
            reader.refuse(f"{what} states {count} texts, more than the file can hold")
        reader.skip_texts(count, what)
    else:
        reader.skip(count * struct.calcsize(f"<{_SCALARS[kind]}"), what)
    return array


_MAX_NAME_BYTES = 128
_MAX_DIMENSIONS = 4
_MAX_DIMENSION = 2**31
_FLOAT32_BYTES = 4


class Kind(NamedTuple):
    """How a type stores numbers: blocks of so many, in so many bytes."""

    name: str
    block_size: int
    block_bytes: int


KINDS: Mapping[int, Kind] = {
    0: Kind("F32", 1, 4),
    1: Kind("F16", 1, 2),
    2: Kind("Q4_0", 32, 18),
    3: Kind("Q4_1", 32, 20),
    6: Kind("Q5_0", 32, 22),
    7: Kind("Q5_1", 32, 24),
    8: Kind("Q8_0", 32, 34),
    9: Kind("Q8_1", 32, 40),
    10: Kind("Q2_K", 256, 84),
    11: Kind("Q3_K", 256, 110),
    12: Kind("Q4_K", 256, 144),
    13: Kind("Q5_K", 256, 176),
    14: Kind("Q6_K", 256, 210),
    15: Kind("Q8_K", 256, 292),
    16: Kind("IQ2_XXS", 256, 66),
    17: Kind("IQ2_XS", 256, 74),
    18: Kind("IQ3_XXS", 256, 98),
    19: Kind("IQ1_S", 256, 50),
    20: Kind("IQ4_NL", 32, 18),
    21: Kind("IQ3_S", 256, 110),
    22: Kind("IQ2_S", 256, 82),
    23: Kind("IQ4_XS", 256, 136),
    24: Kind("I8", 1, 1),
    25: Kind("I16", 1, 2),
    26: Kind("I32", 1, 4),
    27: Kind("I64", 1, 8),
    28: Kind("F64", 1, 8),
    29: Kind("IQ1_M", 256, 56),
    30: Kind("BF16", 1, 2),
    34: Kind("TQ1_0", 256, 54),
    35: Kind("TQ2_0", 256, 66),
    39: Kind("MXFP4", 32, 17),
    40: Kind("NVFP4", 64, 36),
    41: Kind("Q1_0", 128, 18),
}
"""Every type that files may have now, by its number; the numbers between were given up."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A weight in the file."""

    name: str
    kind: int
    shape: tuple[int, ...]
    """Rows before columns, the reverse of the file's order."""
    position: int
    num_bytes: int


def read_tensors(reader: ByteReader, count: int, alignment: int) -> dict[str, StoredTensor]:
    """Read a table of that many tensors; ModelError for the first that the file cannot hold."""
    stated = [_stated(reader) for _ in range(count)]
    start = -(-reader.position // alignment) * alignment
    tensors: dict[str, StoredTensor] = {}
    for name, shape, kind, offset in stated:
        if name in tensors:
            reader.refuse(f"tensor {shown(name)} is there twice")
        if offset % alignment:
            reader.refuse(f"the place of tensor {shown(name)} is not a multiple of {alignment}")
        num_bytes = _num_bytes(reader, name, shape, kind)
        if start + offset + num_bytes > reader.size:
            reader.refuse(f"tensor {shown(name)} reaches beyond the end of the file")
        tensors[name] = StoredTensor(name, kind, shape, start + offset, num_bytes)
    _check_overlaps(reader, tensors.values())
    return tensors


def _stated(reader: ByteReader) -> tuple[str, tuple[int, ...], int, int]:
    """Read a tensor's name, shape, type and offset."""
    name = reader.text("the name of a tensor", _MAX_NAME_BYTES)
    if not name:
        reader.refuse("the name of a tensor is empty")
    what = f"tensor {shown(name)}"
    rank = reader.uint32(what)
    if not 1 <= rank <= _MAX_DIMENSIONS:
        reader.refuse(f"{what} has {rank} dimensions, 1 to {_MAX_DIMENSIONS} are allowed")
    shape = tuple(reader.uint64(what) for _ in range(rank))[::-1]
    if not all(1 <= size <= _MAX_DIMENSION for size in shape):
        reader.refuse(f"{what} has a dimension that is not from 1 to {_MAX_DIMENSION}")
    kind = reader.uint32(what)
    if kind not in KINDS:
        reader.refuse(f"{what} has type {kind}, which is unknown or was given up")
    return name, shape, kind, reader.uint64(what)


def _num_bytes(reader: ByteReader, name: str, shape: tuple[int, ...], kind: int) -> int:
    """Say how many bytes a tensor takes; ModelError if its rows are no whole blocks."""
    _, block_size, block_bytes = KINDS[kind]
    if shape[-1] % block_size:
        reader.refuse(
            f"tensor {shown(name)} has rows of {shape[-1]}, not a multiple of {block_size}"
        )
    if _FLOAT32_BYTES * prod(shape) > memory_budget(reader.size):
        reader.refuse(f"tensor {shown(name)} is out of proportion to the file's size")
    return prod(shape) // block_size * block_bytes


def _check_overlaps(reader: ByteReader, tensors: Iterable[StoredTensor]) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda tensor: tensor.position):
        if tensor.position < end:
            reader.refuse(f"tensor {shown(tensor.name)} overlaps another one")
        end = tensor.position + tensor.num_bytes


_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_KEYS = _MAX_TENSORS = 65_536
_MAX_ALIGNMENT = 65_536
_DEFAULT_ALIGNMENT = 32


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a file says of itself, true as far as the file's size and the format go."""

    path: Path
    size: int
    fields: Fields
    tensors: Mapping[str, StoredTensor]


def check_gguf(path: Path) -> GgufFile:
    """Read header, metadata and tensor table.

    The work grows with the size of the file, the memory with the part ahead of the tensors. Raises
    ModelError, in one sentence, for anything that the format forbids or that exceeds a limit.
    """
    with open_bytes(path) as reader:
        _check_version(reader)
        num_tensors = _count(reader, "tensors", _MAX_TENSORS)
        num_keys = _count(reader, "keys", _MAX_KEYS)
        fields = Fields(read_metadata(reader, num_keys), str(path))
        tensors = read_tensors(reader, num_tensors, _alignment(fields))
        return GgufFile(path, reader.size, fields, tensors)


def _check_version(reader: ByteReader) -> None:
    if reader.take(len(_MAGIC), "the mark at its beginning") != _MAGIC:
        reader.refuse(f"it does not begin with {_MAGIC.decode()}")
    version = reader.uint32("the version")
    if version in (swapped << 24 for swapped in (1, *_VERSIONS)):
        reader.refuse("it is big-endian; convert it to little-endian")
    if version not in _VERSIONS:
        reader.refuse(f"it has version {version}, versions 2 and 3 can be read")


def _count(reader: ByteReader, what: str, most: int) -> int:
    count = reader.uint64(f"the number of {what}")
    if count > most:
        reader.refuse(f"it states {count} {what}, at most {most} are allowed")
    return count


def _alignment(fields: Fields) -> int:
    alignment = fields.integer("general.alignment", 1, _MAX_ALIGNMENT, _DEFAULT_ALIGNMENT)
    if alignment & (alignment - 1):
        fields.refuse(f"'general.alignment' has to be a power of two, and is {alignment}")
    return alignment
