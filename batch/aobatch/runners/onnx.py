"""Our decoder graph on ONNX Runtime: slots of keys and values, prefill and decode in place."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.models.checks.graph import check_decoder
from aobatch.models.foreign_layout import CacheTensor
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk
from aobatch.runners.cached import Arrays, Binding, CachedRunner
from aobatch.runners.session import Entries, open_exactly


class OnnxRunner(CachedRunner):
    """Runs a graph of `models.convert.graph`; see `ModelRunner` for what its methods promise."""

    def __init__(
        self, graph: Path, threads: int, sizes: GraphSizes | None = None, *, entries: Entries = ()
    ) -> None:
        """Open a model.onnx; ModelError if it is not such a graph, of these sizes if given.

        Further entries configure the session, see `session`.
        """
        sizes = check_decoder(graph, sizes)
        session = open_exactly(graph, threads, entries)
        tensors = [
            CacheTensor(
                layer=layer,
                past=f"past.{layer}.{part}",
                present=f"present.{layer}.{part}",
                dtype="float32",
                dimensions=(0, sizes.num_kv_heads, 0, sizes.head_dim),
                batch_axis=0,
                token_axis=2,
            )
            for layer in range(sizes.num_layers)
            for part in ("key", "value")
        ]
        super().__init__(session, tensors, sizes.vocab_size, sizes.kv_bytes_per_token("fp32"))
        self._steps: dict[int, _Step] = {}
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        self._steps.clear()
        super().reserve(num_slots, capacity, lengths)

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        inputs = inputs_of_chunks(chunks, self._cache.capacity)
        step = self._bound(chunks[0].slot, len(chunks), inputs)
        self._run(step.binding)
        return step.logits

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        count = len(token_ids)
        if count not in self._steps:
            inputs = _inputs_of_steps(count, self._cache.capacity)
            self._steps[count] = self._bound(0, count, inputs)
        step = self._steps[count]
        step.inputs["input_ids"][:] = token_ids
        step.inputs["seqlens_k"][:] = lengths
        self._run(step.binding)
        return step.logits

    def reset(self) -> None:
        """Let go of all slots, and of memory that a sibling is not to share."""
        super().reset()
        self._steps = {}
        self._logits = self._logits[:0]

    def _bound(self, first: int, num_slots: int, inputs: Arrays) -> "_Step":
        num_logits = len(inputs["logits_index"])
        if len(self._logits) < num_logits:
            self._steps.clear()  # they write into the smaller array
            self._logits = np.empty((num_logits, self.vocab_size), np.float32)
        logits = self._logits[:num_logits]
        past, present = self._cache.rows(first, first + num_slots)
        binding = Binding(self._session, {**inputs, **past}, {**present, "logits": logits})
        return _Step(inputs, logits, binding)


class _Step(NamedTuple):
    """One layout of a run, bound once and run as often as its inputs are refilled."""

    inputs: Arrays
    logits: Logits
    binding: Binding


def _inputs_of_steps(count: int, capacity: int) -> Arrays:
    """Lay out one new token for each of `count` rows; ids and lengths are filled in later."""
    rows = np.arange(count)
    return {
        "input_ids": np.zeros(count, np.int64),
        "logits_index": rows,
        "pad_index": rows[:, None].copy(),
        "unpad_index": rows,
        "seqlens_k": np.zeros(count, np.int32),
        "query_seqlens": np.ones(count, np.int32),
        "total_length": np.array(capacity, np.int32),
    }


def inputs_of_chunks(chunks: Sequence[Chunk], capacity: int) -> Arrays:
    """Lay out chunks of different lengths, padded on the right inside attention only."""
    sizes = np.array([len(chunk.token_ids) for chunk in chunks])
    starts = np.array([chunk.start for chunk in chunks])
    ends = np.cumsum(sizes)
    columns = np.arange(sizes.max())
    is_token = columns < sizes[:, None]
    packed = (ends - sizes)[:, None] + columns
    wanted = [np.arange(end - c.num_logits, end) for end, c in zip(ends, chunks, strict=True)]
    return {
        "input_ids": np.concatenate([chunk.token_ids for chunk in chunks]),
        "logits_index": np.concatenate(wanted),
        "pad_index": np.where(is_token, packed, 0),
        "unpad_index": np.flatnonzero(is_token),
        "seqlens_k": (starts + sizes - 1).astype(np.int32),
        "query_seqlens": sizes.astype(np.int32),
        "total_length": np.array(capacity, np.int32),
    }
