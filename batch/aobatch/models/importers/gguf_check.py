"""GGUF files checked from the first byte to the last tensor, before anything else reads them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from aobatch.models.fields import Fields
from aobatch.models.importers.gguf_bytes import ByteReader, open_bytes
from aobatch.models.importers.gguf_metadata import read_metadata
from aobatch.models.importers.gguf_tensors import StoredTensor, read_tensors

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
