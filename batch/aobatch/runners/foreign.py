"""Exported graphs on ONNX Runtime, as they are: slots, prefill and decode over any known layout."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from copy import copy
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.models.foreign_layout import CacheTensor, Layout, Port, read_export
from aobatch.models.store.folder import Hints
from aobatch.runners import Chunk
from aobatch.runners.foreign_trial import (
    MAX_ROWS,
    Schedule,
    Shape,
    lengthening_shape,
    runs,
    settle,
    sharing_shape,
)
from aobatch.runners.probes import splits_freely
from aobatch.runners.session import (
    Interruption,
    Session,
    SessionOptions,
    integer_entries,
    open_session,
)


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


class Frame(NamedTuple):
    """How the tokens of several rows stand in one run."""

    width: int
    """Columns of the mask ahead of the new tokens."""
    num_new: int
    num_logits: int
    """Of how many of the last positions the graph gives scores."""


def kept_logits(layout: Layout, chunks: Sequence[Chunk], num_new: int) -> int:
    """Say of how many of the last positions scores are needed, or given whether needed or not."""
    if layout.num_logits_to_keep is None:
        return num_new
    unneeded = min(len(chunk.token_ids) - chunk.num_logits for chunk in chunks)
    return max(1, num_new - unneeded)


def feeds_of(
    layout: Layout, chunks: Sequence[Chunk], frame: Frame, *, is_left_padded: bool
) -> dict[str, NDArray[Any]]:
    """Give the inputs of a run by name, new tokens padded on the right."""
    sizes = np.array([[len(chunk.token_ids)] for chunk in chunks])
    starts = np.array([[chunk.start] for chunk in chunks])
    token_ids = np.zeros((len(chunks), frame.num_new), np.int64)
    for row, chunk in zip(token_ids, chunks, strict=True):
        row[: len(chunk.token_ids)] = chunk.token_ids
    columns = np.arange(frame.width + frame.num_new)
    first = frame.width - starts if is_left_padded else 0
    mask = (columns >= first) & (columns < first + starts + sizes)
    # Padding has the last token's position, which is within what the graph knows.
    positions = starts + np.minimum(np.arange(frame.num_new), sizes - 1)
    has_past = np.array([frame.width > 0])
    kept = np.array([frame.num_logits])
    if layout.num_logits_to_keep and not layout.num_logits_to_keep.dimensions:
        kept = kept[0]
    values: list[tuple[Port | None, NDArray[Any]]] = [
        (layout.input_ids, token_ids),
        (layout.attention_mask, mask),
        (layout.position_ids, positions),
        (layout.use_cache_branch, has_past),
        (layout.num_logits_to_keep, np.asarray(kept)),
    ]
    return {
        port.name: np.ascontiguousarray(value.astype(port.dtype, copy=False))
        for port, value in values
        if port is not None
    }


class Scratch:
    """Memory by name, as large as was ever asked for."""

    def __init__(self) -> None:
        self._arrays: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Give an array of that shape that holds anything; the last one of that name is lost."""
        num_bytes = prod(shape) * np.dtype(dtype).itemsize
        array = self._arrays.get(name)
        if array is None or len(array) < num_bytes:
            array = self._arrays[name] = np.empty(max(num_bytes, 64), np.uint8)
        return array[:num_bytes].view(dtype).reshape(shape)


class ExportRuns:
    """Computes chunks of one layout; the scores that come back hold until the next run."""

    def __init__(self, session: Session, layout: Layout, interruption: Interruption) -> None:
        self._session = session
        self._layout = layout
        self._interruption = interruption
        self._scratch = Scratch()

    def sibling(self) -> "ExportRuns":
        """Give the same with memory of its own, for another thread."""
        return ExportRuns(self._session, self._layout, self._interruption)

    def sharing(
        self, cache: SlotCache, chunks: Sequence[Chunk], shape: Shape
    ) -> list[NDArray[Any]]:
        """Compute chunks of neighbouring slots in place; give the wanted scores of each, [n, V].

        All begin, or all are a step behind others, or there is one.
        """
        # One token alone would take another kernel than beside longer prompts.
        num_new = shape.num_new or max(2, *(len(chunk.token_ids) for chunk in chunks))
        width = max(chunk.start for chunk in chunks)
        frame = Frame(width, num_new, kept_logits(self._layout, chunks, num_new))
        feeds = feeds_of(self._layout, chunks, frame, is_left_padded=False)
        binding = _Binding(self._session, feeds)
        first = chunks[0].slot
        for tensor, array in cache.bound(first, first + len(chunks)):
            binding.add_input(tensor.past, array)
            binding.add_output(tensor.present, array)
        return self._run(binding, chunks, frame)

    def lengthening(
        self, cache: SlotCache, chunks: Sequence[Chunk], shape: Shape, min_tokens: int
    ) -> list[NDArray[Any]]:
        """Compute chunks of one shape behind copies of their past; give the wanted scores of each.

        A row's past stands at the right end of its width, right ahead of the new tokens, so that
        windows that count columns count tokens. Where there are too few tokens, the last row is
        computed again beside itself.
        """
        num_new, width, rows = shape.num_new, shape.width, list(chunks)
        while len(rows) * num_new < min_tokens:
            rows.append(rows[-1])
        frame = Frame(width, num_new, kept_logits(self._layout, rows, num_new))
        binding = _Binding(self._session, feeds_of(self._layout, rows, frame, is_left_padded=True))
        presents = []
        for index, tensor in enumerate(self._layout.caches):
            past = self._take(tensor.past, tensor.shape(len(rows), width), tensor.dtype)
            shape_behind = tensor.shape(len(rows), width + num_new)
            present = self._take(tensor.present, shape_behind, tensor.dtype)
            cache.gather(index, past, [(chunk.slot, chunk.start) for chunk in rows])
            binding.add_input(tensor.past, past)
            binding.add_output(tensor.present, present)
            presents.append(present)
        scores = self._run(binding, rows, frame)
        targets = [(chunk.slot, chunk.start, len(chunk.token_ids)) for chunk in chunks]
        for index, present in enumerate(presents):
            cache.scatter(index, present, width, targets)
        return scores[: len(chunks)]

    def _run(
        self, binding: "_Binding", chunks: Sequence[Chunk], frame: Frame
    ) -> list[NDArray[Any]]:
        port = self._layout.logits
        shape = (len(chunks), frame.num_logits, self._layout.vocab_size)
        logits = self._take(port.name, shape, port.dtype)
        binding.add_output(port.name, logits)
        self._interruption.run(self._session, binding.io)
        skipped = frame.num_new - frame.num_logits
        ends = [len(chunk.token_ids) - skipped for chunk in chunks]
        return [
            row[end - chunk.num_logits : end] if chunk.num_logits else row[:0]
            for row, end, chunk in zip(logits, ends, chunks, strict=True)
        ]

    def _take(self, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
        return self._scratch.take(name, shape, dtype)


class _Binding:
    """Arrays bound by name, and kept for as long as the binding holds their addresses."""

    def __init__(self, session: Session, feeds: dict[str, NDArray[Any]]) -> None:
        self.io = session.io_binding()
        self._alive: list[NDArray[Any]] = []
        for name, array in feeds.items():
            self.add_input(name, array)

    def add_input(self, name: str, array: NDArray[Any]) -> None:
        self._add(self.io.bind_input, name, array)

    def add_output(self, name: str, array: NDArray[Any]) -> None:
        self._add(self.io.bind_output, name, array)

    def _add(self, bind: Any, name: str, array: NDArray[Any]) -> None:  # noqa: ANN401
        self._alive.append(array)
        bind(name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)


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
        self.kv_bytes_per_token = self._layout.kv_bytes_per_token
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
