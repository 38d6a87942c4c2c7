"""Take some rows of a batch array, or give an array of slots more rows."""

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import TokenIds

Scalar = TypeVar("Scalar", bound=np.generic)


def take_rows(array: NDArray[Scalar], rows: TokenIds) -> NDArray[Scalar]:
    """Give the rows at rising indices, [n, ...]; a view where they are neighbours."""
    if rows.size and rows[-1] - rows[0] == rows.size - 1:
        return array[rows[0] : rows[-1] + 1]
    return np.take(array, rows, axis=0)


def add_rows(array: NDArray[Scalar], num_rows: int, fill: float = 0) -> NDArray[Scalar]:
    """Give an array of num_rows rows that begins with the given ones."""
    grown = np.full((num_rows, *array.shape[1:]), fill, dtype=array.dtype)
    grown[: len(array)] = array
    return grown
