"""The metadata of a GGUF file: keys and values, of which the large ones stay in the file."""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from aobatch.models.fields import shown
from aobatch.models.importers.gguf_bytes import ByteReader, open_bytes

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
