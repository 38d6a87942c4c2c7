"""The tensor table of a GGUF file: what is stored where, held against the file's size."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from aobatch.models.fields import shown
from aobatch.models.importers.gguf_bytes import ByteReader
from aobatch.models.sizes import memory_budget

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
