"""Blocks of logits looked at by compiled code: the bits of `aobatch.sampling.blocks`, sooner."""

import ctypes
from functools import cache, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.kernels import KernelsError, Library, library
from aobatch.sampling.blocks import BLOCK, LEAST, Blocks, BlocksOf, Found, Measured, scales_of
from aobatch.sampling.processors import Masks

_ITEM: Final = 4
"""Bytes of a logit."""
_ROOM: Final = 1024
"""Logits of a row for which there is room at first, or more where many blocks are looked at."""
_ROOM_OF_BLOCK: Final = BLOCK // 4
"""The same of a block that is looked at; where it does not do, all is looked at once more."""
_ADDRESS, _INTEGER = ctypes.c_void_p, ctypes.c_int64


class _Rows(ctypes.Structure):
    """The rows that are looked at, as the library knows them."""

    _fields_ = (
        ("logits", _ADDRESS),
        ("stride", _INTEGER),
        ("vocab_size", _INTEGER),
        ("num_rows", _INTEGER),
        ("rows", _ADDRESS),
        ("masks", _ADDRESS),
    )


@cache
def fastest_blocks() -> BlocksOf:
    """Give blocks looked at by the operators' library, or by numpy where that cannot be had."""
    try:
        return blocks_with(library())
    except KernelsError:
        return Blocks


def blocks_with(found: Library) -> BlocksOf:
    """Give blocks looked at by a library; KernelsError if it computes other bits than numpy."""
    try:
        functions = ctypes.CDLL(str(found.path))
    except OSError as error:
        message = f"the compiled sampler cannot be loaded: {error}"
        raise KernelsError(message) from error
    functions.measure_blocks.argtypes = [_ADDRESS] * 5
    functions.measure_blocks.restype = None
    functions.find_logits.argtypes = [*[_ADDRESS] * 4, _INTEGER, *[_ADDRESS] * 3]
    functions.find_logits.restype = _INTEGER
    functions.weigh_logits.argtypes = [_INTEGER, *[_ADDRESS] * 5]
    functions.weigh_logits.restype = None
    functions.mark_best.argtypes = [_INTEGER, *[_ADDRESS] * 5]
    blocks_of = partial(CompiledBlocks, functions)
    _check(blocks_of)
    return blocks_of


class CompiledBlocks(Blocks):
    """Blocks whose maxima, sums and large logits are found by a library."""

    def __init__(self, functions: ctypes.CDLL, logits: Logits, masks: Masks | None = None) -> None:
        """Read logits [B, V], which may change until they are read."""
        super().__init__(logits, masks)
        self._functions = functions
        row_step, step = logits.strides
        self._is_plain = step == _ITEM and row_step % _ITEM == 0

    def measure(
        self, rows: TokenIds, temperatures: Floats, floors: Logits | None = None
    ) -> Measured:
        """Measure the blocks of rows, see `Blocks`."""
        if not self._is_plain:
            return super().measure(rows, temperatures, floors)
        shape = len(rows), self.num_blocks
        found = Measured(np.empty(shape, np.float32), np.zeros(shape, np.float32))
        scales = scales_of(temperatures)
        floors = None if floors is None else np.ascontiguousarray(floors, np.float32)
        arguments, _alive = self._arguments(rows)
        self._functions.measure_blocks(
            ctypes.byref(arguments),
            scales.ctypes.data,
            None if floors is None else floors.ctypes.data,
            found.maxima.ctypes.data,
            found.sums.ctypes.data,
        )
        return found

    def best(self, rows: TokenIds) -> TokenIds:
        """Find the largest logit of rows, see `Blocks`."""
        blocks = self.measure(rows, np.zeros(len(rows))).maxima.argmax(axis=1)
        return np.asarray(blocks * BLOCK + self.read(rows, blocks).argmax(axis=1))

    def find(
        self, rows: TokenIds, maxima: Logits, bounds: Logits, ceilings: Logits | None = None
    ) -> Found:
        """Find the logits between two bounds, see `Blocks`."""
        if not self._is_plain:
            return super().find(rows, maxima, bounds, ceilings)
        if ceilings is None:
            ceilings = np.full(len(rows), np.inf)
        maxima = np.ascontiguousarray(maxima, np.float32)
        limits = np.array([np.maximum(bounds, LEAST), ceilings], dtype=np.float32)
        arguments, _alive = self._arguments(rows)
        opened = int(np.count_nonzero(maxima >= limits[0][:, None]))
        room = count = max(_ROOM * len(rows), _ROOM_OF_BLOCK * opened)
        while True:
            places, ids = np.empty((2, room), np.int64)
            found = Found(places, ids, np.empty(room, np.float32))
            count = self._functions.find_logits(
                ctypes.byref(arguments),
                maxima.ctypes.data,
                *(limit.ctypes.data for limit in limits),
                room,
                *(array.ctypes.data for array in found),
            )
            if count <= room:
                return Found(found.places[:count], found.ids[:count], found.logits[:count])
            room = count

    def weigh(self, logits: Logits, sizes: TokenIds, peaks: Logits, temperatures: Floats) -> Floats:
        """Weigh logits of rows, see `Blocks`."""
        weights = np.empty(len(logits))
        arrays = [_plain(sizes, np.int64), _plain(logits, np.float32), _plain(peaks, np.float32)]
        arrays += [scales_of(temperatures), weights]
        self._functions.weigh_logits(len(sizes), *(array.ctypes.data for array in arrays))
        return weights

    def best_until(
        self, sizes: TokenIds, logits: Logits, weights: Floats, targets: Floats
    ) -> NDArray[np.bool_]:
        """Mark the best logits of rows, see `Blocks`."""
        mask = np.empty(len(logits), np.bool_)
        arrays = [_plain(sizes, np.int64), _plain(logits, np.float32), _plain(weights, np.float64)]
        arrays += [_plain(targets, np.float64), mask]
        if not self._functions.mark_best(len(sizes), *(array.ctypes.data for array in arrays)):
            raise MemoryError
        return mask

    def _arguments(self, rows: TokenIds) -> tuple[_Rows, list[NDArray[np.generic] | None]]:
        """Give the rows as the library takes them, and what has to live until it returns."""
        rows = np.ascontiguousarray(rows, np.int64)
        masks = None
        if self.masks is not None:
            bits, places = self.masks.bits, self.mask_places[rows]
            masks = np.where(places >= 0, bits.ctypes.data + places * bits.strides[0], 0)
        return _Rows(
            self.logits.ctypes.data,
            self.logits.strides[0] // _ITEM,
            self.vocab_size,
            len(rows),
            rows.ctypes.data,
            None if masks is None else masks.ctypes.data,
        ), [rows, masks]


def _plain(array: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """Give an array as the library reads it."""
    return np.ascontiguousarray(array, kind)


def _check(blocks_of: BlocksOf) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (2, 2 * BLOCK + 40)).astype(np.float32)
    logits[1, 3 : BLOCK + 9] = -np.inf
    ours, theirs = blocks_of(logits, None), Blocks(logits)
    rows, temperatures = np.array([1, 0]), np.array([1.0, 0.7])
    bounds, peaks = np.array([1.0, -3.0], dtype=np.float32), logits.max(axis=1)[rows]
    both: list[tuple[NDArray[Any], NDArray[Any]]] = [(ours.best(rows), theirs.best(rows))]
    for floors in (None, bounds):
        found = ours.measure(rows, temperatures, floors)
        expected = theirs.measure(rows, temperatures, floors)
        looked_for = [blocks.find(rows, expected.maxima, bounds) for blocks in (ours, theirs)]
        both += [*zip(found, expected, strict=True), *zip(*looked_for, strict=True)]
    sizes = np.bincount(looked_for[1].places)
    weights = [b.weigh(looked_for[1].logits, sizes, peaks, temperatures) for b in (ours, theirs)]
    rest = sizes, looked_for[1].logits, weights[1], np.array([1.5, 4.0])
    both += [(weights[0], weights[1]), (ours.best_until(*rest), theirs.best_until(*rest))]
    if not all(np.array_equal(*pair) for pair in both):
        message = "the compiled sampler computes other bits than numpy"
        raise KernelsError(message)
