"""Blocks of logits looked at by compiled code: the bits of `aobatch.sampling.blocks`, sooner."""

import ctypes
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.kernels import KernelsError, Library, library
from aobatch.sampling.blocks import BLOCK, Blocks, BlocksOf, Found, Measured, rows_of
from aobatch.sampling.columns import ROW
from aobatch.sampling.filters import Drawn, Rows, blank_drawn
from aobatch.sampling.processors import Masks
from aobatch.sampling.weights import LEAST, scales_of

_ITEM: Final = 4
"""Bytes of a logit."""
_ROOM: Final = 2**15
"""Logits for which there is room at first; where it does not do, all is looked at once more."""
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
    functions.measure_blocks.argtypes = [_ADDRESS] * 4
    functions.measure_blocks.restype = None
    functions.find_logits.argtypes = [*[_ADDRESS] * 3, _INTEGER, *[_ADDRESS] * 3]
    functions.find_logits.restype = _INTEGER
    functions.draw_rows.argtypes = [_ADDRESS] * 3
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

    def measure(self, rows: TokenIds, temperatures: Floats) -> Measured:
        """Measure the blocks of rows, see `Blocks`."""
        if not self._is_plain:
            return super().measure(rows, temperatures)
        shape = len(rows), self.num_blocks
        found = Measured(np.empty(shape, np.float32), np.zeros(shape, np.float32))
        arrays = scales_of(temperatures), *found
        arguments, _alive = self._arguments(rows)
        self._functions.measure_blocks(ctypes.byref(arguments), *(x.ctypes.data for x in arrays))
        return found

    def best(self, rows: TokenIds) -> TokenIds:
        """Find the largest logit of rows, see `Blocks`."""
        blocks = self.measure(rows, np.zeros(len(rows))).maxima.argmax(axis=1)
        return np.asarray(blocks * BLOCK + self.read(rows, blocks).argmax(axis=1))

    def find(self, rows: TokenIds, maxima: Logits, bounds: Logits) -> Found:
        """Find the logits above a bound, see `Blocks`."""
        if not self._is_plain:
            return super().find(rows, maxima, bounds)
        given = _plain(maxima, np.float32), _plain(np.maximum(bounds, LEAST), np.float32)
        arguments, _alive = self._arguments(rows)
        sizes, count = np.zeros(len(rows), np.int64), _ROOM
        while True:
            room = count + BLOCK
            ids, logits = np.empty(room, np.int32), np.empty(room, np.float32)
            count = self._functions.find_logits(
                ctypes.byref(arguments),
                *(array.ctypes.data for array in given),
                room,
                *(array.ctypes.data for array in (sizes, ids, logits)),
            )
            if count <= room - BLOCK:
                places = np.repeat(np.arange(len(rows)), sizes)
                return Found(places, ids[:count].astype(np.int64), logits[:count])

    def draw(self, rows: Rows, uniforms: Floats) -> Drawn:
        """Draw one of the tokens that filters leave of rows, see `Blocks`."""
        if not self._is_plain:
            return super().draw(rows, uniforms)
        drawn, arguments = blank_drawn(len(uniforms)), self._arguments(rows.rows)
        floats = (
            rows.maxima,
            rows.peaks,
            scales_of(rows.temperatures),
            self.bounds(rows),
            rows.floors,
        )
        doubles = rows.reached, rows.usual_shares, rows.table["top_p"], uniforms
        given = [_plain(array, np.float32) for array in floats]
        given += [_plain(array, np.float64) for array in doubles]
        given.append(_plain(rows.table["top_k"], np.int64))
        wanted, out = _addresses(given), _addresses(drawn)
        if not self._functions.draw_rows(ctypes.byref(arguments[0]), wanted, out):
            raise MemoryError
        return drawn

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


def _addresses(arrays: Sequence[NDArray[Any]]) -> ctypes.Array[ctypes.c_void_p]:
    """Give the addresses of arrays as a structure of pointers."""
    return (_ADDRESS * len(arrays))(*(array.ctypes.data for array in arrays))


def _plain(array: NDArray[Any], kind: type[np.generic]) -> NDArray[Any]:
    """Give an array as the library reads it."""
    return np.ascontiguousarray(array, kind)


def _check(blocks_of: BlocksOf) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (3, 2 * BLOCK + 40)).astype(np.float32)
    logits[1, 3 : BLOCK + 9] = -np.inf
    logits[2] /= 50
    ours, theirs = blocks_of(logits, None), Blocks(logits)
    order, temperatures = np.array([1, 0, 2]), np.array([1.0, 0.7, 2.0])
    measured = theirs.measure(order, temperatures)
    table = np.zeros(3, dtype=ROW)
    table["temperature"], table["top_p"] = temperatures, [1.0, 0.9, 0.8]
    table["top_k"], table["min_p"] = [40, 600, 600], [0.01, 0.0, 0.0]
    rows = rows_of(theirs, order, logits.max(axis=1)[order], table, measured)
    both: list[tuple[NDArray[Any], NDArray[Any]]] = [(ours.best(order), theirs.best(order))]
    both += zip(ours.measure(order, temperatures), measured, strict=True)
    bounds = np.array([1.0, -3.0, 0.0], dtype=np.float32)
    both += zip(*(b.find(order, measured.maxima, bounds) for b in (ours, theirs)), strict=True)
    uniforms = np.array([0.2, 0.7, 0.9])
    both += zip(*(blocks.draw(rows, uniforms) for blocks in (ours, theirs)), strict=True)
    if not all(np.array_equal(*pair) for pair in both):
        message = "the compiled sampler computes other bits than numpy"
        raise KernelsError(message)
