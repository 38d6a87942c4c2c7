"""The header of a safetensors file, held against the file's size before any number is read."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.fields import shown

_MAX_HEADER_BYTES = 100_000_000
_MAX_TENSORS = 65_536
_MAX_RANK = 8
_MAX_DIMENSION = 2**31
_SIZES: Mapping[str, int] = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1}


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A tensor of a file: its type, its shape, and where its bytes begin and end."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(path: Path) -> dict[str, StoredWeight]:
    """Give the tensors of a file by name.

    Raises ModelError for anything that the format forbids or that the file cannot hold.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER_BYTES):
                raise _refusal(path, f"its header states {length} bytes, the file has {size}")
            entries = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ModelError(message) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(path, f"its header is no JSON object ({error})") from error
    entries.pop("__metadata__", None)
    if len(entries) > _MAX_TENSORS:
        raise _refusal(path, f"it has {len(entries)} tensors, at most {_MAX_TENSORS} are read")
    start = 8 + length
    weights = {name: _weight(path, name, raw, start) for name, raw in entries.items()}
    _check_ranges(path, weights, start, size)
    return weights


def _weight(path: Path, name: str, raw: msgspec.Raw, start: int) -> StoredWeight:
    try:
        entry = msgspec.json.decode(raw, type=_Entry)
    except (msgspec.DecodeError, RecursionError) as error:
        raise _refusal(path, f"tensor {shown(name)} is not described as it has to be") from error
    if entry.dtype not in _SIZES:
        raise _refusal(path, f"tensor {shown(name)} has the type {shown(entry.dtype)}")
    is_sane = all(0 <= size <= _MAX_DIMENSION for size in entry.shape)
    begin, end = entry.data_offsets
    if len(entry.shape) > _MAX_RANK or not is_sane:
        raise _refusal(path, f"tensor {shown(name)} has the shape {shown(entry.shape)}")
    if end - begin != prod(entry.shape) * _SIZES[entry.dtype]:
        raise _refusal(path, f"tensor {shown(name)} has not as many bytes as its shape needs")
    return StoredWeight(path, entry.dtype, entry.shape, start + begin, start + end)


def _check_ranges(path: Path, weights: Mapping[str, StoredWeight], start: int, size: int) -> None:
    """Raise ModelError if tensors overlap, leave gaps or reach beyond the file."""
    position = start
    for name, weight in sorted(weights.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if weight.begin != position:
            raise _refusal(path, f"tensor {shown(name)} does not begin where the one before ends")
        position = weight.end
    if position != size:
        raise _refusal(path, f"its tensors end at byte {position} of {size}")


def _refusal(path: Path, reason: str) -> ModelError:
    message = f"{path} is not a readable safetensors file: {reason}"
    return ModelError(message)
