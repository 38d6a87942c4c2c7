"""Arrays bound to a session: the inputs of a run, and the cache of keys and values."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.runners import Chunk
from aobatch.runners.session import Interruption, Session


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one run, named as the graph names them (see `models.graph`)."""

    input_ids: TokenIds
    logits_index: TokenIds
    pad_index: TokenIds
    unpad_index: TokenIds
    seqlens_k: NDArray[np.int32]
    query_seqlens: NDArray[np.int32]
    total_length: NDArray[np.int32]

    @classmethod
    def of_steps(cls, count: int, capacity: int) -> "Batch":
        """Lay out one new token for each of `count` rows; ids and lengths are filled in later."""
        rows = np.arange(count)
        return cls(
            input_ids=np.zeros(count, np.int64),
            logits_index=rows,
            pad_index=rows[:, None].copy(),
            unpad_index=rows,
            seqlens_k=np.zeros(count, np.int32),
            query_seqlens=np.ones(count, np.int32),
            total_length=np.array(capacity, np.int32),
        )

    @classmethod
    def of_chunks(cls, chunks: Sequence[Chunk], capacity: int) -> "Batch":
        """Lay out chunks of different lengths, padded on the right inside attention only."""
        sizes = np.array([len(chunk.token_ids) for chunk in chunks])
        starts = np.array([chunk.start for chunk in chunks])
        ends = np.cumsum(sizes)
        columns = np.arange(sizes.max())
        is_token = columns < sizes[:, None]
        packed = (ends - sizes)[:, None] + columns
        wanted = [np.arange(end - c.num_logits, end) for end, c in zip(ends, chunks, strict=True)]
        return cls(
            input_ids=np.concatenate([chunk.token_ids for chunk in chunks]),
            logits_index=np.concatenate(wanted),
            pad_index=np.where(is_token, packed, 0),
            unpad_index=np.flatnonzero(is_token),
            seqlens_k=(starts + sizes - 1).astype(np.int32),
            query_seqlens=sizes.astype(np.int32),
            total_length=np.array(capacity, np.int32),
        )


class Binding:
    """One layout of a run, bound once and run as often as its arrays are refilled."""

    def __init__(
        self,
        session: Session,
        batch: Batch,
        cache: Iterator[tuple[str, NDArray[Any]]],
        logits: Logits,
    ) -> None:
        self.batch = batch
        self.logits = logits
        self._io = session.io_binding()
        # The binding holds addresses only, so the arrays must live as long as it does.
        self._alive: list[NDArray[Any]] = [logits]
        for field in fields(batch):
            self._bind(self._io.bind_input, field.name, getattr(batch, field.name))
        for name, array in cache:
            self._bind(self._io.bind_input, f"past.{name}", array)
            self._bind(self._io.bind_output, f"present.{name}", array)
        self._bind(self._io.bind_output, "logits", logits)

    def run(self, session: Session, interruption: Interruption) -> None:
        """Compute; the logits and the cache are written where they are bound."""
        interruption.run(session, self._io)

    def _bind(self, how: Any, name: str, array: NDArray[Any]) -> None:  # noqa: ANN401
        self._alive.append(array)
        how(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


class KeyValueCache:
    """Keys and values of all layers, [slots, kv_heads, capacity, head_dim] each.

    Memory is taken by the system only where tokens have been written.
    """

    def __init__(
        self, num_layers: int, num_kv_heads: int, head_dim: int, dtype: np.dtype[Any]
    ) -> None:
        self._names = [
            f"{layer}.{part}" for layer in range(num_layers) for part in ("key", "value")
        ]
        self._num_kv_heads = num_kv_heads
        self._head_dim = head_dim
        self._dtype = dtype
        self._arrays: list[NDArray[Any]] = []
        self.capacity = 0

    def empty(self) -> "KeyValueCache":
        """Give a cache for the same model, with no slots yet."""
        return KeyValueCache(len(self._names) // 2, self._num_kv_heads, self._head_dim, self._dtype)

    def resize(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Allocate anew and carry over the first lengths[i] tokens of slot i."""
        shape = (num_slots, self._num_kv_heads, capacity, self._head_dim)
        old, self._arrays = self._arrays, []
        for index in range(len(self._names)):
            array = np.empty(shape, self._dtype)
            for slot, length in enumerate(lengths):
                array[slot, :, :length] = old[index][slot, :, :length]
            if old:
                old[index] = array[:0]  # free a layer before the next one is allocated
            self._arrays.append(array)
        self.capacity = capacity

    def rows(self, first: int, stop: int) -> Iterator[tuple[str, NDArray[Any]]]:
        """Give the rows of slots first to stop of every layer's keys and values, uncopied."""
        for name, array in zip(self._names, self._arrays, strict=True):
            yield name, array[first:stop]

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` tokens of one slot to another."""
        for array in self._arrays:
            array[target, :, :length] = array[source, :, :length]
