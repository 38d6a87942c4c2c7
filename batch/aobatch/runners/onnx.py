"""Our decoder graph on ONNX Runtime: slots of keys and values, prefill and decode in place.

The cache of a layer is one array [slots, kv_heads, capacity, head_dim]; a run binds a range of its
rows as past and as present, so that nothing is copied and rows outside the range are not touched.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.models.checks.graph import check_decoder
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk
from aobatch.runners.probes import splits_freely
from aobatch.runners.session import (
    Interruption,
    Session,
    SessionOptions,
    integer_entries,
    open_session,
)


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


class OnnxRunner:
    """Runs a graph of `models.graph`; see `ModelRunner` for what its methods promise."""

    def __init__(
        self,
        graph: Path,
        threads: int,
        sizes: GraphSizes | None = None,
        *,
        entries: tuple[tuple[str, str], ...] = (),
    ) -> None:
        """Open a model.onnx; ModelError if it is not such a graph, of these sizes if given.

        Further entries configure the session, see `session`.
        """
        sizes = check_decoder(graph, sizes)
        exact = integer_entries()
        self.multiplies_slowly = bool(exact)
        self._session = open_session(graph, SessionOptions(threads, (*exact, *entries)))
        inputs = {value.name: value for value in self._session.get_inputs()}
        is_int8 = inputs["past.0.key"].type == "tensor(int8)"
        dtype = np.dtype(np.int8 if is_int8 else np.float32)
        self.vocab_size = sizes.vocab_size
        self.kv_bytes_per_token = sizes.kv_bytes_per_token("int8" if is_int8 else "fp32")
        self._splits: list[bool] = []  # siblings share it
        self._interruption = Interruption()  # this too
        self._cache = KeyValueCache(sizes.num_layers, sizes.num_kv_heads, sizes.head_dim, dtype)
        self._decoders: dict[int, Binding] = {}
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks of two or more.

        Known of the kernels that were looked at; whether it holds on this processor is tried.
        """
        if not self._splits:
            self._splits.append(splits_freely(self.sibling()))
        return self._splits[0]

    def sibling(self) -> "OnnxRunner":
        """Give a runner with slots of its own over the same weights, for another thread."""
        other = copy(self)
        other._let_go()  # noqa: SLF001 - of its own class
        return other

    def _let_go(self) -> None:
        self._cache = self._cache.empty()
        self._decoders = {}
        self._logits = self._logits[:0]

    def interrupted(self) -> AbstractContextManager[None]:
        """Let runs of this runner and its siblings fail while the block lasts."""
        return self._interruption.active()

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        self._decoders.clear()
        self._cache.resize(num_slots, capacity, lengths)

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        batch = Batch.of_chunks(chunks, self._cache.capacity)
        logits = self._logits_of(len(batch.logits_index))
        first = chunks[0].slot
        binding = Binding(
            self._session, batch, self._cache.rows(first, first + len(chunks)), logits
        )
        binding.run(self._session, self._interruption)
        return logits

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        count = len(token_ids)
        binding = self._decoders.get(count)
        if binding is None or binding.logits.base is not self._logits_of(count).base:
            batch = Batch.of_steps(count, self._cache.capacity)
            rows = self._cache.rows(0, count)
            binding = Binding(self._session, batch, rows, self._logits_of(count))
            self._decoders[count] = binding
        binding.batch.input_ids[:] = token_ids
        binding.batch.seqlens_k[:] = lengths
        binding.run(self._session, self._interruption)
        return binding.logits

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot target the first `length` tokens of slot source."""
        self._cache.copy(source, target, length)

    def keys_and_values(self, slot: int, length: int) -> dict[str, NDArray[Any]]:
        """Give what a slot holds of its first tokens, [kv_heads, length, head_dim] by name."""
        rows = self._cache.rows(slot, slot + 1)
        return {name: array[0, :, :length] for name, array in rows}

    def _logits_of(self, rows: int) -> Logits:
        if len(self._logits) < rows:
            self._logits = np.empty((rows, self.vocab_size), np.float32)
        return self._logits[:rows]
