"""The decoder graph over operators of our own: packed tokens, each with its slot and position."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.kernels import BLOCK, CacheDtype, block_bytes
from aobatch.models.checks.graph import check_fused
from aobatch.models.foreign_layout import CacheTensor
from aobatch.models.store.folder import GraphSizes
from aobatch.runners import Chunk
from aobatch.runners.cached import Arrays, Binding, CachedRunner
from aobatch.runners.choice import operators
from aobatch.runners.session import Entries, open_session

_Layout: TypeAlias = tuple[TokenIds, TokenIds]
"""The slot of each token, and the places of tokens whose logits are wanted."""
_FEW = 16
"""Tokens of a chunk that comes again and again: the last one of a lone sequence, and guesses."""


class FusedRunner(CachedRunner):
    """Runs a graph of `models.convert.fused`; see `ModelRunner` for what its methods promise."""

    min_chunk = 1

    def __init__(
        self,
        graph: Path,
        threads: int,
        sizes: GraphSizes,
        cache_dtype: CacheDtype,
        *,
        entries: Entries = (),
    ) -> None:
        """Open a graph; ModelError if it is none of these sizes, KernelsError without operators."""
        check_fused(graph, sizes)
        session = open_session(graph, threads, entries, operators())
        size = block_bytes(cache_dtype, sizes.head_dim)
        tensors = [
            CacheTensor(
                layer=layer,
                past=f"cache.{layer}",
                present=f"cache.{layer}",
                dtype="uint8",
                dimensions=(0, sizes.num_kv_heads, 0, size),
                batch_axis=0,
                token_axis=2,
                tokens_each=BLOCK,
            )
            for layer in range(sizes.num_layers)
        ]
        super().__init__(session, tensors, sizes.vocab_size, sizes.kv_bytes_per_token(cache_dtype))
        self._steps: dict[tuple[bytes, bytes], _Step] = {}
        self._logits: Logits = np.empty((0, self.vocab_size), np.float32)

    @property
    def splits_freely(self) -> bool:
        """Whatever is computed beside a token, in the same run or before: it changes no bit."""
        return True

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        self._steps.clear()
        super().reserve(num_slots, capacity, lengths)

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for different slots; the wanted positions' logits, [R, V]."""
        sizes = [len(chunk.token_ids) for chunk in chunks]
        ends = np.cumsum(sizes)
        wanted = [np.arange(end - c.num_logits, end) for end, c in zip(ends, chunks, strict=True)]
        layout = np.repeat([chunk.slot for chunk in chunks], sizes), np.concatenate(wanted)
        is_frequent = len(chunks) == 1 and chunks[0].num_logits == sizes[0] <= _FEW
        step = self._kept(layout) if is_frequent else self._bound(layout)
        positions = [np.arange(chunk.start, chunk.start + len(chunk.token_ids)) for chunk in chunks]
        token_ids = np.concatenate([chunk.token_ids for chunk in chunks])
        return self._computed(step, token_ids, np.concatenate(positions))

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        rows = np.arange(len(token_ids))
        return self._computed(self._kept((rows, rows)), token_ids, lengths)

    def reset(self) -> None:
        """Let go of all slots, and of memory that a sibling is not to share."""
        super().reset()
        self._steps = {}
        self._logits = self._logits[:0]

    def _computed(self, step: "_Step", token_ids: TokenIds, positions: TokenIds) -> Logits:
        step.inputs["input_ids"][:] = token_ids
        step.inputs["positions"][:] = positions
        self._run(step.binding)
        return step.logits

    def _kept(self, layout: _Layout) -> "_Step":
        key = layout[0].tobytes(), layout[1].tobytes()
        if key not in self._steps:
            step = self._bound(layout)  # which may forget all others
            self._steps[key] = step
        return self._steps[key]

    def _bound(self, layout: _Layout) -> "_Step":
        slots, wanted = layout
        if len(self._logits) < len(wanted):
            self._steps.clear()  # they write into the smaller array
            self._logits = np.empty((len(wanted), self.vocab_size), np.float32)
        logits = self._logits[: len(wanted)]
        inputs: Arrays = {
            "input_ids": np.zeros(len(slots), np.int64),
            "slots": slots.astype(np.int32),
            "positions": np.zeros(len(slots), np.int32),
            "logits_index": wanted.astype(np.int64),
        }
        cache, _ = self._cache.rows(0, len(self._cache.arrays[0]))
        return _Step(
            inputs, logits, Binding(self._session, {**inputs, **cache}, {"logits": logits})
        )


class _Step(NamedTuple):
    """One layout of a run, bound once and run as often as its inputs are refilled."""

    inputs: Arrays
    logits: Logits
    binding: Binding
