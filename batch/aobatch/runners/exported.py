"""Exported graphs on ONNX Runtime, as they are: slots, prefill and decode over any known layout."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from copy import copy
from math import prod
from pathlib import Path

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.models.foreign_layout import Hints, read_export
from aobatch.runners import Chunk
from aobatch.runners.export_runs import ExportRuns, Scratch
from aobatch.runners.export_trial import settle
from aobatch.runners.schedule import (
    MAX_ROWS,
    Schedule,
    Shape,
    lengthening_shape,
    runs,
    sharing_shape,
)
from aobatch.runners.session import Interruption, SessionOptions, integer_entries, open_session
from aobatch.runners.slot_cache import SlotCache
from aobatch.runners.splitting import splits_freely

_MAX_LOGITS_BYTES = 256 << 20
"""What the scores of one run may take; most exports give them for every position."""


class ExportedRunner:
    """Runs a graph that another tool exported; see `ModelRunner` for what its methods promise."""

    def __init__(self, graph: Path, threads: int, hints: Hints) -> None:
        """Open a graph and try how it is to be computed; ModelError if it cannot be."""
        self._layout, _ = read_export(graph, hints)
        self._session = open_session(graph, SessionOptions(threads, integer_entries()))
        self._interruption = Interruption()  # siblings share it
        self._runs = ExportRuns(self._session, self._layout, self._interruption)
        self._cache = SlotCache(self._layout.caches)
        self._scratch = Scratch()
        self._splits: list[bool] = []  # siblings share it
        self.vocab_size = self._layout.vocab_size
        token = sum(prod(c.shape(1, 1)) * np.dtype(c.dtype).itemsize for c in self._layout.caches)
        # Attention that makes a longer cache needs the past once more, and what it makes.
        self.kv_bytes_per_token = token if self._layout.shares_buffers else 3 * token
        self.schedule = settle(graph, self._layout, self.scheduled)

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks of two or more.

        Never where sums have as many terms as a chunk's past is wide.
        """
        if not self._layout.shares_buffers or self.schedule.max_rows == 1:
            return False
        if not self._splits:
            self._splits.append(splits_freely(self.sibling()))
        return self._splits[0]

    def sibling(self) -> "ExportedRunner":
        """Give a runner with slots of its own over the same weights, for another thread."""
        return self.scheduled(self.schedule)

    def scheduled(self, schedule: Schedule) -> "ExportedRunner":
        """Give a sibling that computes by another schedule."""
        other = copy(self)
        other.schedule = schedule
        other._let_go()  # noqa: SLF001 - of its own class
        return other

    def _let_go(self) -> None:
        self._cache = SlotCache(self._layout.caches)
        self._runs = self._runs.sibling()
        self._scratch = Scratch()

    def interrupted(self) -> AbstractContextManager[None]:
        """Let runs of this runner and its siblings fail while the block lasts."""
        return self._interruption.active()

    def reserve(self, num_slots: int, capacity: int, lengths: Sequence[int]) -> None:
        """Make room for slots of `capacity` tokens; slot i keeps its first lengths[i] tokens."""
        self._cache.resize(num_slots, capacity, lengths)

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        ends = np.cumsum([chunk.num_logits for chunk in chunks])
        logits: Logits = self._scratch.take("", (int(ends[-1]), self.vocab_size), np.float32)
        shape_of = sharing_shape if self._layout.shares_buffers else lengthening_shape
        shapes = [shape_of(chunk, self.schedule) for chunk in chunks]
        limit = self._max_rows(max(len(chunk.token_ids) for chunk in chunks))
        for shape, rows in runs(shapes, limit, of_neighbours=self._layout.shares_buffers):
            found = self._compute([chunks[row] for row in rows], shape)
            for row, scores in zip(rows, found, strict=True):
                logits[ends[row] - len(scores) : ends[row]] = scores
        return logits

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        starts = lengths.tolist()
        return self.prefill(
            [Chunk(slot, start, token_ids[slot : slot + 1], 1) for slot, start in enumerate(starts)]
        )

    def copy(self, source: int, target: int, length: int) -> None:
        """Give slot target the first `length` tokens of slot source."""
        self._cache.copy(source, target, length)

    def _compute(self, chunks: Sequence[Chunk], shape: Shape) -> list[Logits]:
        if self._layout.shares_buffers:
            return self._runs.sharing(self._cache, chunks, shape)
        return self._runs.lengthening(self._cache, chunks, shape, self.schedule.min_tokens)

    def _max_rows(self, size: int) -> int:
        """Say how many rows of chunks of a size a run may have."""
        row_bytes = 4 * max(16, size) * self._layout.vocab_size
        return max(1, min(self.schedule.max_rows, MAX_ROWS, _MAX_LOGITS_BYTES // row_bytes))
