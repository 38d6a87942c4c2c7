"""What runners over ONNX Runtime have in common: a session, and a cache whose rows are the slots.

A run binds a range of the cache's rows as past and as present, so that nothing is copied and rows
outside the range are not touched.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.models.foreign_layout import CacheTensor
from aobatch.runners import Chunk
from aobatch.runners.session import Interruption, Session

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""By the names that the inputs or outputs of a graph have."""


class SlotCache:
    """One array for each of a graph's cache tensors, with the slots as its first axis.

    Memory is taken by the system only where tokens have been written.
    """

    def __init__(self, tensors: Sequence[CacheTensor]) -> None:
        self.tensors = tensors
        self.arrays: list[NDArray[Any]] = []
        self.capacity = 0

    def resize(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Allocate anew and carry over the first lengths[i] tokens of slot i."""
        old, self.arrays = self.arrays, []
        for index, tensor in enumerate(self.tensors):
            shape = list(tensor.shape(num_slots, capacity))
            array = np.empty((shape.pop(tensor.batch_axis), *shape), tensor.dtype)
            for slot, length in enumerate(lengths):
                tokens = tokens_of(tensor, 0, length)
                array[slot][tokens] = old[index][slot][tokens]
            if old:
                old[index] = array[:0]  # free a layer before the next one is allocated
            self.arrays.append(array)
        self.capacity = capacity

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for tensor, array in zip(self.tensors, self.arrays, strict=True):
            tokens = tokens_of(tensor, 0, length)
            array[target][tokens] = array[source][tokens]

    def rows(self, first: int, stop: int) -> tuple[Arrays, Arrays]:
        """Give the rows of slots first to stop, uncopied, as inputs and as outputs of a run."""
        rows = [array[first:stop] for array in self.arrays]
        past, present = ([getattr(t, name) for t in self.tensors] for name in ("past", "present"))
        return dict(zip(past, rows, strict=True)), dict(zip(present, rows, strict=True))


def tokens_of(tensor: CacheTensor, start: int, stop: int) -> tuple[slice, ...]:
    """Select tokens of one row of a cache tensor."""
    axis = tensor.token_axis - (tensor.batch_axis < tensor.token_axis)
    each = tensor.tokens_each
    return (slice(None),) * axis + (slice(start // each, -(-stop // each)),)


class Binding:
    """Arrays bound to a graph's inputs and outputs; a run reads and writes them where they are."""

    def __init__(self, session: Session, inputs: Arrays, outputs: Arrays) -> None:
        self.io = session.io_binding()
        # The binding holds addresses only, so the arrays must live as long as it does.
        self._alive = (inputs, outputs)
        for bind, arrays in ((self.io.bind_input, inputs), (self.io.bind_output, outputs)):
            for name, array in arrays.items():
                bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class CachedRunner(ABC):
    """Slots, siblings and interruption; see `ModelRunner` for what the methods promise."""

    min_chunk = 2

    def __init__(
        self,
        session: Session,
        tensors: Sequence[CacheTensor],
        vocab_size: int,
        kv_bytes_per_token: int,
    ) -> None:
        self.vocab_size = vocab_size
        self.kv_bytes_per_token = kv_bytes_per_token
        self._session = session
        self._cache = SlotCache(tensors)
        self._interruption = Interruption()  # siblings share it
        self._splits: list[bool] = []  # this too
        self._began: float | None = None

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks of two or more.

        Known of the kernels that were looked at; whether it holds on this processor is tried.
        """
        if not self._splits:
            self._splits.append(_splits_freely(self.sibling()))
        return self._splits[0]

    @property
    def seconds_in_run(self) -> float:
        """How long the present run of the model takes, 0 outside of one; any thread may ask."""
        began = self._began
        return 0.0 if began is None else time.monotonic() - began

    def sibling(self) -> Self:
        """Make a runner with slots of its own over the same weights, for another thread."""
        other = copy(self)
        other.reset()
        return other

    def interrupted(self) -> AbstractContextManager[None]:
        """Let runs of this runner and its siblings fail while the block lasts."""
        return self._interruption.active()

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        self._cache.resize(num_slots, capacity, lengths)

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot target the first `length` tokens of slot source."""
        self._cache.copy(source, target, length)

    @abstractmethod
    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""

    @abstractmethod
    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""

    def reset(self) -> None:
        """Let go of all slots, and of memory that a sibling is not to share."""
        self._cache = SlotCache(self._cache.tensors)
        self._began = None

    def _run(self, binding: Binding) -> None:
        self._began = time.monotonic()
        try:
            self._interruption.run(self._session, binding.io)
        finally:
            self._began = None


_LENGTH = 48
_CUTS = (2, 13, 32, 46)


def _splits_freely(runner: CachedRunner) -> bool:
    """Compare a prompt whole and in two chunks; one token alone would take another kernel."""
    runner.reserve(1, 2 * _LENGTH, [])
    token_ids = np.arange(1, _LENGTH + 1) % runner.vocab_size
    whole = runner.prefill([Chunk(0, 0, token_ids, 2)]).copy()
    for cut in _CUTS:
        runner.prefill([Chunk(0, 0, token_ids[:cut], 0)])
        if not np.array_equal(whole, runner.prefill([Chunk(0, cut, token_ids[cut:], 2)])):
            return False
    return True
