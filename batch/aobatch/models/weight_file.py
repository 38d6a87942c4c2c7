"""The file beside a graph that holds its weights, written while they are made."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

_ALIGNMENT = 4096  # a page, since the file is mapped


class WeightFile:
    """Takes weights one after the other, so that none has to stay in memory."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = path.open("wb")

    def __enter__(self) -> "WeightFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def append(
        self, name: str, shape: tuple[int, ...], blocks: Iterable[NDArray[Any]]
    ) -> ir.ExternalTensor:
        """Write an array that comes some rows at a time; what refers to it."""
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        start = self._file.tell()
        dtype = None
        for block in blocks:
            # Not tofile, whose errors do not say that the disk is full.
            self._file.write(np.ascontiguousarray(block).reshape(-1).view(np.uint8).data)
            dtype = block.dtype
        if dtype is None:
            message = f"weight {name!r} has no rows"
            raise ValueError(message)
        return ir.ExternalTensor(
            self._path.name,
            start,
            self._file.tell() - start,
            ir.DataType.from_numpy(dtype),
            shape=ir.Shape(shape),
            name=name,
            base_dir=self._path.parent,
        )
