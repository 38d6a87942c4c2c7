"""Weights out of safetensors files as float32, and which files of a folder hold them."""

from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np

from aobatch.errors import ModelError
from aobatch.models.fields import shown
from aobatch.models.importers.json_files import read_fields
from aobatch.models.importers.safetensors_header import StoredWeight, read_header
from aobatch.models.spec import Weight

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def find_weights(folder: Path) -> dict[str, StoredWeight]:
    """Give the tensors of a folder by name, out of one file or of those that its index names.

    Raises ModelError if a file is missing, or does not hold what the index says.
    """
    if not (folder / _INDEX).is_file():
        return read_header(_existing(folder, _SINGLE))
    fields = read_fields(folder / _INDEX)
    names = fields.section("weight_map").strings()
    shards = {file: read_header(_existing(folder, file)) for file in sorted({*names.values()})}
    weights: dict[str, StoredWeight] = {}
    for file, stored in shards.items():
        for name, weight in stored.items():
            if names.get(name) != file:
                fields.refuse(f"it does not say that {shown(name)} is in {file}")
            weights[name] = weight
    lost = [name for name in names if name not in weights]
    if lost:
        fields.refuse(f"{shown(lost[0])} is not in {names[lost[0]]}")
    return weights


def load_stored(weight: StoredWeight, name: str, start: int = 0, stop: int | None = None) -> Weight:
    """Read rows start to stop; ModelError for integers, or a number that is not finite."""
    if weight.dtype not in _TYPES:
        message = f"{weight.path}: weight {name!r} has type {weight.dtype}, not supported"
        raise ModelError(message)
    dtype = np.dtype(_TYPES[weight.dtype])
    rows = range(weight.shape[0])[start:stop]
    row_size = prod(weight.shape[1:])
    with weight.path.open("rb") as file:
        file.seek(weight.begin + start * row_size * dtype.itemsize)
        stored = np.fromfile(file, dtype, len(rows) * row_size)
    if len(stored) != len(rows) * row_size:
        message = f"{weight.path} became shorter while it was read"
        raise ModelError(message)
    if weight.dtype == "BF16":
        stored = (stored.astype(np.uint32) << 16).view(np.float32)
    array = stored.astype(np.float32, copy=False).reshape(len(rows), *weight.shape[1:])
    if not np.isfinite(array).all():
        message = f"{weight.path}: weight {name!r} holds numbers that are not finite"
        raise ModelError(message)
    return array


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if name != path.name or not path.is_file():
        message = f"{folder} has no file {shown(name)}; give a folder as its author published it"
        raise ModelError(message)
    return path
