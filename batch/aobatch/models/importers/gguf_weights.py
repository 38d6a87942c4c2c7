"""A weight out of a GGUF file as float32, whatever type it is stored in."""

from math import prod
from pathlib import Path

import numpy as np

from aobatch.errors import ModelError
from aobatch.models.importers.gguf_bytes import open_bytes
from aobatch.models.importers.gguf_tensors import KINDS, StoredTensor
from aobatch.models.spec import Weight

_CHUNK = 2**22


def load_weight(
    path: Path, tensor: StoredTensor, start: int = 0, stop: int | None = None
) -> Weight:
    """Dequantise rows start to stop, some at a time so that only the result is large.

    Raises ModelError for a type that cannot be read, or for a number that is not finite.
    """
    num_rows, columns = prod(tensor.shape[:-1]), tensor.shape[-1]
    row_bytes = tensor.num_bytes // num_rows
    rows = range(num_rows)[start:stop]
    step = max(1, _CHUNK // columns)
    weight = np.empty((len(rows), columns), np.float32)
    with open_bytes(path, tensor.position + start * row_bytes) as reader:
        for first in range(0, len(rows), step):
            part = weight[first : first + step]
            data = np.frombuffer(reader.take(len(part) * row_bytes, "a tensor"), np.uint8)
            part[:] = _dequantise(path, tensor, data.reshape(len(part), row_bytes))
            if not np.isfinite(part).all():
                message = f"{path}: weight {tensor.name!r} holds numbers that are not finite"
                raise ModelError(message)
    return weight.reshape(-1, *tensor.shape[1:])


def _dequantise(path: Path, tensor: StoredTensor, data: np.ndarray) -> np.ndarray:
    from gguf import GGMLQuantizationType, dequantize

    try:
        # Scales may be anything; what comes of them is checked.
        with np.errstate(all="ignore"):
            return np.asarray(dequantize(data, GGMLQuantizationType(tensor.kind)))
    except (NotImplementedError, ValueError) as error:
        kind = KINDS[tensor.kind].name
        message = f"{path}: weight {tensor.name!r} has type {kind}, not supported"
        raise ModelError(message) from error
