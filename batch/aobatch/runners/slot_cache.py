"""Slots of keys and values for any exported graph: gathered for a run, or bound as they are."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aobatch.models.foreign_layout import CacheTensor


class SlotCache:
    """One array for each of a graph's cache tensors, with the slots as its first axis."""

    def __init__(self, tensors: Sequence[CacheTensor]) -> None:
        self._tensors = tensors
        self._arrays: list[NDArray[Any]] = []
        self.capacity = 0

    def resize(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Allocate anew and carry over the first lengths[i] tokens of slot i."""
        old, self._arrays = self._arrays, []
        for index, tensor in enumerate(self._tensors):
            array = np.empty(_slot_shape(tensor, num_slots, capacity), tensor.dtype)
            for slot, length in enumerate(lengths):
                tokens = _tokens(tensor, 0, length)
                array[slot][tokens] = old[index][slot][tokens]
            if old:
                old[index] = array[:0]  # free a layer before the next one is allocated
            self._arrays.append(array)
        self.capacity = capacity

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for tensor, array in zip(self._tensors, self._arrays, strict=True):
            tokens = _tokens(tensor, 0, length)
            array[target][tokens] = array[source][tokens]

    def bound(self, first: int, stop: int) -> Iterator[tuple[CacheTensor, NDArray[Any]]]:
        """Give the rows of slots first to stop, uncopied; the batch is their first axis."""
        for tensor, array in zip(self._tensors, self._arrays, strict=True):
            yield tensor, array[first:stop]

    def gather(self, index: int, past: NDArray[Any], rows: Sequence[tuple[int, int]]) -> None:
        """Lay out the tokens of slots, given with their lengths, at the right end of `past`."""
        tensor = self._tensors[index]
        target = np.moveaxis(past, tensor.batch_axis, 0)
        width = past.shape[tensor.token_axis]
        for row, (slot, length) in enumerate(rows):
            # What is masked has to be a number all the same.
            target[row][_tokens(tensor, 0, width - length)] = 0
            tokens = _tokens(tensor, width - length, width)
            target[row][tokens] = self._arrays[index][slot][_tokens(tensor, 0, length)]

    def scatter(
        self, index: int, present: NDArray[Any], width: int, rows: Sequence[tuple[int, int, int]]
    ) -> None:
        """Append to slots, given with their lengths and new tokens, what follows `width` tokens."""
        tensor = self._tensors[index]
        source = np.moveaxis(present, tensor.batch_axis, 0)
        for row, (slot, length, count) in enumerate(rows):
            new = source[row][_tokens(tensor, width, width + count)]
            self._arrays[index][slot][_tokens(tensor, length, length + count)] = new


def _slot_shape(tensor: CacheTensor, num_slots: int, capacity: int) -> tuple[int, ...]:
    shape = list(tensor.shape(num_slots, capacity))
    return (shape.pop(tensor.batch_axis), *shape)


def _tokens(tensor: CacheTensor, start: int, stop: int) -> tuple[slice, ...]:
    """Select tokens of one row."""
    axis = tensor.token_axis - (tensor.batch_axis < tensor.token_axis)
    return (slice(None),) * axis + (slice(start, stop),)
