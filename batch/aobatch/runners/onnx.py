"""Our decoder graph on ONNX Runtime: slots of keys and values, prefill and decode in place.

The cache of a layer is one array [slots, kv_heads, capacity, head_dim]; a run binds a range of its
rows as past and as present, so that nothing is copied and rows outside the range are not touched.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.models.checks.graph import check_decoder
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk
from aobatch.runners.binding import Batch, Binding, KeyValueCache
from aobatch.runners.session import (
    Interruption,
    SessionOptions,
    integer_entries,
    open_session,
)
from aobatch.runners.splitting import splits_freely


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
        dtype = np.dtype(np.int8 if inputs["past.0.key"].type == "tensor(int8)" else np.float32)
        self.vocab_size = sizes.vocab_size
        self.kv_bytes_per_token = (
            2 * dtype.itemsize * sizes.num_layers * sizes.num_kv_heads * sizes.head_dim
        )
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
