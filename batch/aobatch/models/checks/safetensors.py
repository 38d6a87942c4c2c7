"""Headers of safetensors files, checked to the last byte before a weight is read.

The header is a length in eight bytes and a JSON object: the type, shape and place of each tensor.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import ModelError
from aobatch.models.checks import refusal, shown
from aobatch.models.checks.files import (
    POINTER,
    POINTER_ADVICE,
    neighbour,
    open_regular,
    read_regular,
)
from aobatch.models.checks.limits import (
    MAX_ELEMENTS,
    MAX_RANK,
    MAX_SAFETENSORS_HEADER_BYTES,
    MAX_SAFETENSORS_TENSORS,
)

_ITEM_SIZES: Mapping[object, int] = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F8_E5M2": 1,
    "F8_E4M3": 1,
    "U16": 2,
    "I16": 2,
    "F16": 2,
    "BF16": 2,
    "U32": 4,
    "I32": 4,
    "F32": 4,
    "U64": 8,
    "I64": 8,
    "F64": 8,
}
_METADATA = "__metadata__"
_MAX_NAME = 1024


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in its file, row by row, little-endian."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """The first byte, counted from the start of the file."""
    end: int


class _HeaderError(ValueError):
    """What is wrong with a header."""


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Give the tensors of a safetensors file by name, in the order of their bytes.

    ModelError for anything that the format does not have: they fill the file without gap or
    overlap, and each takes as many bytes as its type and shape need.
    """
    # Caches keep files behind links.
    with open_regular(path, follows_links=True) as (file, size):
        if file.read(len(POINTER)) == POINTER:
            message = f"{path} {POINTER_ADVICE}"
            raise ModelError(message)
        file.seek(0)
        try:
            return _tensors(file, size)
        except (_HeaderError, OSError) as error:
            raise refusal(path, f"it is no safetensors file, for {error}") from error


def read_index(path: Path) -> dict[str, Path]:
    """Give the file of each tensor that a model.safetensors.index.json names.

    All lie beside the index; whether they hold these tensors is for `read_header` to say.
    """
    content = read_regular(path, MAX_SAFETENSORS_HEADER_BYTES, follows_links=True)
    try:
        names = _file_names(_parse(content))
    except _HeaderError as error:
        raise refusal(path, f"it is no index of safetensors files, for {error}") from error
    return {tensor: neighbour(path, name) for tensor, name in names.items()}


def _file_names(index: Mapping[str, object]) -> dict[str, str]:
    names = index.get("weight_map")
    if not isinstance(names, dict) or not 0 < len(names) <= MAX_SAFETENSORS_TENSORS:
        message = "it has no weight_map, or one that is too large"
        raise _HeaderError(message)
    if not all(isinstance(name, str) for name in names.values()):
        message = "it names files by something else than names"
        raise _HeaderError(message)
    return names


def _tensors(file: BinaryIO, size: int) -> dict[str, StoredTensor]:
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size or length > MAX_SAFETENSORS_HEADER_BYTES:
        message = f"a header of {length} bytes does not fit"
        raise _HeaderError(message)
    header = _parse(file.read(length))
    _check_metadata(header.pop(_METADATA, {}))
    if len(header) > MAX_SAFETENSORS_TENSORS:
        message = f"it has {len(header)} tensors"
        raise _HeaderError(message)
    tensors = {name: _tensor(name, entry, start) for name, entry in header.items()}
    ordered = sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))
    position = start
    for name, tensor in ordered:
        if tensor.begin != position:
            message = f"tensor {shown(name)} leaves a gap or overlaps another"
            raise _HeaderError(message)
        position = tensor.end
    if position != size:
        message = f"its tensors end at byte {position} of {size}"
        raise _HeaderError(message)
    return dict(ordered)


def _tensor(name: str, entry: object, start: int) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        message = f"tensor {shown(name)} is not described by dtype, shape and data_offsets"
        raise _HeaderError(message)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not name.isprintable() or not 0 < len(name) <= _MAX_NAME:
        message = f"a tensor is named {shown(name)}"
        raise _HeaderError(message)
    if not isinstance(dtype, str) or dtype not in _ITEM_SIZES:
        message = f"tensor {shown(name)} has the type {shown(dtype)}"
        raise _HeaderError(message)
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        message = f"tensor {shown(name)} has shape {shown(shape)} and offsets {shown(offsets)}"
        raise _HeaderError(message)
    begin, end = offsets
    if math.prod(shape) * _ITEM_SIZES[dtype] != end - begin:
        message = f"tensor {shown(name)} has {end - begin} bytes, not those of its type and shape"
        raise _HeaderError(message)
    return StoredTensor(dtype, tuple(shape), start + begin, start + end)


def _are_sizes(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_RANK
        and all(type(size) is int and 0 <= size <= MAX_ELEMENTS for size in value)
    )


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        message = "its metadata are not strings"
        raise _HeaderError(message)


def _parse(content: bytes) -> dict[str, object]:
    try:
        value = json.loads(content.decode(), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:
        message = f"its JSON cannot be read ({error})"
        raise _HeaderError(message) from error
    if not isinstance(value, dict) or content[:1] != b"{":
        message = "it does not begin with an object"
        raise _HeaderError(message)
    return value


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        message = "a key stands twice"
        raise ValueError(message)
    return fields
