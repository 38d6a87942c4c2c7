"""Weights out of safetensors files as float32, and which files of a folder hold them."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from aobatch.errors import ModelError
from aobatch.models.checks import shown
from aobatch.models.checks.files import open_regular
from aobatch.models.checks.safetensors import StoredTensor, read_header, read_index
from aobatch.models.spec import Weight

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_TYPES: Mapping[str, str] = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


@dataclass(frozen=True, slots=True)
class FileTensor:
    """A tensor and the file that it lies in."""

    name: str
    path: Path
    stored: StoredTensor


def find_weights(folder: Path) -> dict[str, FileTensor]:
    """Give the tensors of a folder by name, out of one file or of those that its index names.

    Raises ModelError if a file is missing, or does not hold what the index says.
    """
    index = folder / _INDEX
    if not index.is_file():
        path = folder / _SINGLE
        if not path.exists() and not path.is_symlink():
            message = f"{folder} has neither {_SINGLE} nor {_INDEX}; get the whole folder"
            raise ModelError(message)
        return {name: FileTensor(name, path, tensor) for name, tensor in read_header(path).items()}
    paths = read_index(index)
    tensors = {
        name: FileTensor(name, path, tensor)
        for path in sorted({*paths.values()})
        for name, tensor in read_header(path).items()
    }
    wrong = [name for name, tensor in tensors.items() if paths.get(name) != tensor.path]
    wrong += [name for name in paths if name not in tensors]
    if wrong:
        message = f"{index} does not say truly which file holds {shown(wrong[0])}; get it anew"
        raise ModelError(message)
    return tensors


def load_tensor(tensor: FileTensor, start: int = 0, stop: int | None = None) -> Weight:
    """Read rows start to stop; ModelError for integers, or a number that is not finite."""
    stored = tensor.stored
    if stored.dtype not in _TYPES:
        message = f"{tensor.path}: weight {tensor.name!r} has type {stored.dtype}, not supported"
        raise ModelError(message)
    dtype = np.dtype(_TYPES[stored.dtype])
    num_rows = len(range(stored.shape[0])[start:stop])
    row_size = prod(stored.shape[1:])
    with open_regular(tensor.path, follows_links=True) as (file, _):
        file.seek(stored.begin + start * row_size * dtype.itemsize)
        numbers = np.fromfile(file, dtype, num_rows * row_size)
    if len(numbers) != num_rows * row_size:
        message = f"{tensor.path} became shorter while it was read"
        raise ModelError(message)
    if stored.dtype == "BF16":
        numbers = (numbers.astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):
        weight = numbers.astype(np.float32, copy=False).reshape(num_rows, *stored.shape[1:])
    if not np.isfinite(weight).all():
        message = f"{tensor.path}: weight {tensor.name!r} holds numbers that are not finite"
        raise ModelError(message)
    return weight
