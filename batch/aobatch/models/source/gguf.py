"""GGUF files checked from the first byte to the last tensor, before anything else reads them.

The reader is our own, since every length in a file is a claim: nothing is allocated before what is
stated is known to be there.
"""

import os
import struct
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn, TypeAlias

from gguf import GGML_QUANT_SIZES

from aobatch.errors import ModelError
from aobatch.models.checks import part_names, shown
from aobatch.models.source.decoder import memory_budget
from aobatch.models.source.fields import Fields

MAX_FILE_BYTES = 64 * 2**30
"""The largest file that is read."""

_MAX_TEXTS = 2**22
_MAX_TEXT_BYTES = 16 * 2**20
_MAX_KEY_BYTES = _MAX_KEPT_BYTES = 1024
_MAX_NAME_BYTES = 128
_MAX_KEYS = _MAX_TENSORS = 65_536
_MAX_ALIGNMENT, _DEFAULT_ALIGNMENT = 65_536, 32
_MAX_DIMENSIONS, _MAX_DIMENSION = 4, 2**31
_CHUNK = 65_536

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
# Templates are programs, which nothing here runs; what one says literally tells its format.
_TEMPLATE, _MAX_TEMPLATE_BYTES = "tokenizer.chat_template", 2**18

_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
"""The struct code of each type of number."""
_TEXT, _ARRAY = 8, 9


class ByteReader:
    """Reads little-endian values; every method raises ModelError that says what did not fit."""

    def __init__(self, file: BinaryIO, size: int, path: Path) -> None:
        self._file = file
        self._texts_left = _MAX_TEXTS
        self.size = size
        self.path = path
        self.position = 0

    def skip(self, count: int, what: str) -> None:
        """Pass over bytes."""
        self._claim(count, what)
        self._file.seek(self.position)

    def take(self, count: int, what: str) -> bytes:
        """Read the next bytes."""
        self._claim(count, what)
        data = self._file.read(count)
        if len(data) < count:
            self.refuse("it became shorter while it was read")
        return data

    def number(self, code: str, what: str) -> Any:  # noqa: ANN401 - as the code says
        """Read a number or a truth value by its struct code."""
        data = self.take(struct.calcsize(f"<{code}"), what)
        if code == "?" and data not in (b"\0", b"\1"):
            self.refuse(f"{what} is neither true nor false")
        return struct.unpack(f"<{code}", data)[0]

    def text(self, what: str, max_bytes: int = _MAX_TEXT_BYTES) -> str:
        """Read a text, which has its length ahead of it."""
        return self.decoded(self.text_length(what, max_bytes), what)

    def text_length(self, what: str, max_bytes: int = _MAX_TEXT_BYTES) -> int:
        """Read the length that is ahead of a text."""
        length: int = self.number("Q", what)
        if length > max_bytes:
            self.refuse(f"{what} states {length} bytes, at most {max_bytes} are allowed")
        self._texts_left -= 1
        if self._texts_left < 0:
            self.refuse(f"it holds more than {_MAX_TEXTS} texts")
        return length

    def decoded(self, count: int, what: str) -> str:
        """Read the next bytes as a text."""
        try:
            return self.take(count, what).decode()
        except UnicodeDecodeError:
            self.refuse(f"{what} is not valid UTF-8")

    def refuse(self, reason: str) -> NoReturn:
        """Raise the error that says why this file is refused."""
        message = f"{self.path} is not a readable GGUF file: {reason}"
        raise ModelError(message)

    def _claim(self, count: int, what: str) -> None:
        if count > self.size - self.position:
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


@dataclass(frozen=True, slots=True)
class StoredText:
    """A text that is left in the file, longer than anything that is asked for."""

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


class BlockType(NamedTuple):
    """How numbers are stored: in blocks of so many, each of so many bytes."""

    number: int
    name: str
    size: int
    num_bytes: int


Q1_0, Q2_0 = 41, 42
BLOCK_TYPES: Mapping[int, BlockType] = {
    **{
        int(kind): BlockType(int(kind), kind.name, *sizes)
        for kind, sizes in GGML_QUANT_SIZES.items()
    },
    Q1_0: BlockType(Q1_0, "Q1_0", 128, 18),
    Q2_0: BlockType(Q2_0, "Q2_0", 64, 18),
}
"""Those of ggml by their numbers."""
_OLDER_Q2_0 = BlockType(Q2_0, "Q2_0", 128, 34)
"""What files have under that number that were written before ggml took it."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A weight in a file."""

    path: Path
    name: str
    kind: BlockType
    shape: tuple[int, ...]
    """Rows before columns, the reverse of the file's order."""
    position: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a file says of itself, true as far as the file's size and the format go."""

    paths: tuple[Path, ...]
    """The file, or all parts of it."""
    size: int
    fields: Fields
    """Numbers, truth values, texts, StoredTexts and StoredArrays."""
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
        fields = Fields(_metadata(reader, num_keys), str(path))
        return GgufFile((path,), reader.size, fields, _tensors(reader, num_tensors, fields))


_SPLIT = "split.count"


def check_parts(path: Path) -> GgufFile:
    """Read a file as `check_gguf` does; if it is one part of several, all of them.

    The first part has the metadata. Raises ModelError, naming a part, if it is missing or of
    another file.
    """
    file = check_gguf(path)
    count = file.fields.integer(_SPLIT, 0, 2**16, 0)
    if count <= 1:
        return file
    names = part_names(path.name)
    if len(names) != count:
        file.fields.refuse(
            f"it is one of {count} parts; name them alike, NAME-00001-of-{count:05}.gguf and so on"
        )
    parts = [_part(path.with_name(name), number, count) for number, name in enumerate(names)]
    fields, tensors = parts[0].fields, {k: v for part in parts for k, v in part.tensors.items()}
    stated = fields.integer("split.tensors.count", 0, count * _MAX_TENSORS, len(tensors))
    if not len(tensors) == stated == sum(len(part.tensors) for part in parts):
        fields.refuse(f"its parts do not hold the {stated} different tensors that it states")
    paths = tuple(path for part in parts for path in part.paths)
    return GgufFile(paths, sum(part.size for part in parts), fields, tensors)


def _part(path: Path, number: int, count: int) -> GgufFile:
    if not path.exists():
        message = (
            f"{path}, part {number + 1} of {count}, is missing; get it from where the others are"
        )
        raise ModelError(message)
    file = check_gguf(path)
    if (file.fields.get("split.no"), file.fields.get(_SPLIT)) != (number, count):
        file.fields.refuse(f"it is not part {number + 1} of {count}, as its name says")
    return file


def _check_version(reader: ByteReader) -> None:
    if reader.take(len(_MAGIC), "the mark at its beginning") != _MAGIC:
        reader.refuse(f"it does not begin with {_MAGIC.decode()}")
    version = reader.number("I", "the version")
    if version in (swapped << 24 for swapped in (1, *_VERSIONS)):
        reader.refuse("it is big-endian; convert it to little-endian")
    if version not in _VERSIONS:
        reader.refuse(f"it has version {version}, versions 2 and 3 can be read")


def _count(reader: ByteReader, what: str, most: int) -> int:
    count: int = reader.number("Q", f"the number of {what}")
    if count > most:
        reader.refuse(f"it states {count} {what}, at most {most} are allowed")
    return count


def _metadata(reader: ByteReader, count: int) -> dict[str, object]:
    values: dict[str, object] = {}
    for _ in range(count):
        key = reader.text("a key", _MAX_KEY_BYTES)
        if not key or key in values:
            reader.refuse(f"the key {shown(key)} is there twice" if key else "a key is empty")
        values[key] = _value(reader, key)
    return values


def _value(reader: ByteReader, key: str) -> object:
    what = f"the value of {shown(key)}"
    kind = reader.number("I", what)
    if kind == _ARRAY:
        return _array(reader, what)
    if kind in _SCALARS:
        return reader.number(_SCALARS[kind], what)
    if kind != _TEXT:
        reader.refuse(f"{what} has the unknown type {kind}")
    length = reader.text_length(what)
    if key == _TEMPLATE and length <= _MAX_TEMPLATE_BYTES:
        return reader.take(length, what).decode("utf-8", "replace")
    if length > _MAX_KEPT_BYTES or key.startswith(_TEMPLATE):
        reader.skip(length, what)
        return StoredText(length)
    return reader.decoded(length, what)


def _array(reader: ByteReader, what: str) -> StoredArray:
    kind, count = reader.number("I", what), reader.number("Q", what)
    if kind not in (*_SCALARS, _TEXT):
        nested = "an array of arrays" if kind == _ARRAY else f"an array of the unknown type {kind}"
        reader.refuse(f"{what} is {nested}")
    array = StoredArray(reader.path, what, kind, count, reader.position)
    if kind != _TEXT:
        reader.skip(count * struct.calcsize(f"<{_SCALARS[kind]}"), what)
        return array
    if 8 * count > reader.size - reader.position:
        reader.refuse(f"{what} states {count} texts, more than the file can hold")
    for _ in range(count):
        reader.skip(reader.text_length(what), what)
    return array


def _tensors(reader: ByteReader, count: int, fields: Fields) -> dict[str, StoredTensor]:
    """Read a table of that many tensors; ModelError for the first that the file cannot hold."""
    alignment = fields.integer("general.alignment", 1, _MAX_ALIGNMENT, _DEFAULT_ALIGNMENT)
    if alignment & (alignment - 1):
        fields.refuse(f"'general.alignment' has to be a power of two, and is {alignment}")
    stated = [_stated(reader) for _ in range(count)]
    start = -(-reader.position // alignment) * alignment
    older = _has_older_blocks(stated, reader.size - start)
    tensors: dict[str, StoredTensor] = {}
    for name, kind, shape, offset in stated:
        if name in tensors:
            reader.refuse(f"tensor {shown(name)} is there twice")
        if offset % alignment:
            reader.refuse(f"the place of tensor {shown(name)} is not a multiple of {alignment}")
        kind = _OLDER_Q2_0 if older and kind.number == Q2_0 else kind
        num_bytes = _num_bytes(reader, name, kind, shape)
        if start + offset + num_bytes > reader.size:
            reader.refuse(f"tensor {shown(name)} reaches beyond the end of the file")
        tensors[name] = StoredTensor(reader.path, name, kind, shape, start + offset, num_bytes)
    end = 0
    for tensor in sorted(tensors.values(), key=lambda tensor: tensor.position):
        if tensor.position < end:
            reader.refuse(f"tensor {shown(tensor.name)} overlaps another one")
        end = tensor.position + tensor.num_bytes
    return tensors


_Stated: TypeAlias = tuple[str, BlockType, tuple[int, ...], int]
"""A tensor's name, type, shape and offset."""


def _has_older_blocks(stated: Sequence[_Stated], size: int) -> bool:
    """Say whether Q2_0 can only be the older one, since there is no room for the other."""
    starts = sorted(offset for *_, offset in stated)
    for _, kind, shape, offset in stated:
        following = bisect_right(starts, offset)
        end = starts[following] if following < len(starts) else size
        if kind.number == Q2_0 and prod(shape) // kind.size * kind.num_bytes > end - offset:
            return True
    return False


def _stated(reader: ByteReader) -> _Stated:
    """Read an entry of the table of tensors."""
    name = reader.text("the name of a tensor", _MAX_NAME_BYTES)
    if not name:
        reader.refuse("the name of a tensor is empty")
    what = f"tensor {shown(name)}"
    rank = reader.number("I", what)
    if not 1 <= rank <= _MAX_DIMENSIONS:
        reader.refuse(f"{what} has {rank} dimensions, 1 to {_MAX_DIMENSIONS} are allowed")
    shape = tuple(reader.number("Q", what) for _ in range(rank))[::-1]
    if not all(1 <= size <= _MAX_DIMENSION for size in shape):
        reader.refuse(f"{what} has a dimension that is not from 1 to {_MAX_DIMENSION}")
    kind = reader.number("I", what)
    if kind not in BLOCK_TYPES:
        reader.refuse(f"{what} has type {kind}, which is unknown or was given up")
    return name, BLOCK_TYPES[kind], shape, reader.number("Q", what)


def _num_bytes(reader: ByteReader, name: str, kind: BlockType, shape: tuple[int, ...]) -> int:
    """Say how many bytes a tensor takes; ModelError if its rows are no whole blocks."""
    if shape[-1] % kind.size:
        reader.refuse(
            f"tensor {shown(name)} has rows of {shape[-1]}, not a multiple of {kind.size}"
        )
    if 4 * prod(shape) > memory_budget(reader.size):  # as float32
        reader.refuse(f"tensor {shown(name)} is out of proportion to the file's size")
    return prod(shape) // kind.size * kind.num_bytes
