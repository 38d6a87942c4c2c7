"""Exported graphs on ONNX Runtime, as they are: slots, prefill and decode over any known layout."""

from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aobatch.arrays import Logits, TokenIds
from aobatch.models.foreign_layout import Layout, Port, read_export
from aobatch.models.store.folder import Hints
from aobatch.runners import Chunk
from aobatch.runners.cached import Arrays, Binding, CachedRunner, tokens_of
from aobatch.runners.foreign_trial import (
    MAX_ROWS,
    Schedule,
    Shape,
    lengthening_shape,
    runs,
    settle,
    sharing_shape,
)
from aobatch.runners.session import integer_entries, open_session

_MAX_LOGITS_BYTES = 256 << 20
"""What the scores of one run may take; most exports give them for every position."""


class ExportedRunner(CachedRunner):
    """Runs a graph that another tool exported; see `ModelRunner` for what its methods promise."""

    def __init__(self, graph: Path, threads: int, hints: Hints) -> None:
        """Open a graph and try how it is to be computed; ModelError if it cannot be."""
        self._layout, _ = read_export(graph, hints)
        layout = self._layout
        super().__init__(
            open_session(graph, threads, integer_entries()),
            layout.caches,
            layout.vocab_size,
            layout.kv_bytes_per_token,
        )
        self._scratch = Scratch()
        self.schedule = settle(graph, layout, self.scheduled)

    @property
    def splits_freely(self) -> bool:
        """Whether a prompt gives the same bits however it is cut into chunks of two or more.

        Never where sums have as many terms as a chunk's past is wide.
        """
        can_split = self._layout.shares_buffers and self.schedule.max_rows > 1
        return can_split and super().splits_freely

    def scheduled(self, schedule: Schedule) -> Self:
        """Make a sibling that computes by another schedule."""
        other = self.sibling()
        other.schedule = schedule
        return other

    def prefill(self, chunks: Sequence[Chunk]) -> Logits:
        """Take in chunks for neighbouring slots; the wanted positions' logits, [R, V]."""
        shares = self._layout.shares_buffers
        ends = np.cumsum([chunk.num_logits for chunk in chunks])
        logits: Logits = self._scratch.take("", (int(ends[-1]), self.vocab_size), np.float32)
        shape_of = sharing_shape if shares else lengthening_shape
        shapes = [shape_of(chunk, self.schedule) for chunk in chunks]
        row_bytes = 4 * self.vocab_size * max(16, *(len(chunk.token_ids) for chunk in chunks))
        limit = max(1, min(self.schedule.max_rows, MAX_ROWS, _MAX_LOGITS_BYTES // row_bytes))
        compute = self._share if shares else self._lengthen
        for shape, rows in runs(shapes, limit, of_neighbours=shares):
            found = compute([chunks[row] for row in rows], shape)
            for row, scores in zip(rows, found, strict=True):
                logits[ends[row] - len(scores) : ends[row]] = scores
        return logits

    def decode(self, token_ids: TokenIds, lengths: TokenIds) -> Logits:
        """Add token_ids[i] to slot i, which holds lengths[i] tokens; its next logits, [B, V]."""
        starts = enumerate(lengths.tolist())
        return self.prefill([Chunk(i, start, token_ids[i : i + 1], 1) for i, start in starts])

    def reset(self) -> None:
        """Let go of all slots, and of memory that a sibling is not to share."""
        super().reset()
        self._scratch = Scratch()

    def _share(self, chunks: Sequence[Chunk], shape: Shape) -> list[Logits]:
        """Compute chunks of neighbouring slots in place; give the wanted scores of each, [n, V].

        All begin, or all are a step behind others, or there is one.
        """
        # One token alone would take another kernel than beside longer prompts.
        num_new = shape.num_new or max(2, *(len(chunk.token_ids) for chunk in chunks))
        width = max(chunk.start for chunk in chunks)
        frame = Frame(width, num_new, kept_logits(self._layout, chunks, num_new))
        inputs = inputs_of(self._layout, chunks, frame, is_left_padded=False)
        first = chunks[0].slot
        past, present = self._cache.rows(first, first + len(chunks))
        return self._compute(chunks, frame, {**inputs, **past}, present)

    def _lengthen(self, chunks: Sequence[Chunk], shape: Shape) -> list[Logits]:
        """Compute chunks of one shape behind copies of their past; give the wanted scores of each.

        A row's past stands at the right end of its width, right ahead of the new tokens, so that
        windows that count columns count tokens. Where there are too few tokens, the last row is
        computed again beside itself.
        """
        num_new, width, rows = shape.num_new, shape.width, list(chunks)
        while len(rows) * num_new < self.schedule.min_tokens:
            rows.append(rows[-1])
        frame = Frame(width, num_new, kept_logits(self._layout, rows, num_new))
        inputs = dict(inputs_of(self._layout, rows, frame, is_left_padded=True))
        presents = {}
        for tensor, array in zip(self._cache.tensors, self._cache.arrays, strict=True):
            past = self._scratch.take(tensor.past, tensor.shape(len(rows), width), tensor.dtype)
            target = np.moveaxis(past, tensor.batch_axis, 0)
            for row, chunk in enumerate(rows):
                begin = width - chunk.start
                # What is masked has to be a number all the same.
                target[row][tokens_of(tensor, 0, begin)] = 0
                held = array[chunk.slot][tokens_of(tensor, 0, chunk.start)]
                target[row][tokens_of(tensor, begin, width)] = held
            inputs[tensor.past] = past
            longer = tensor.shape(len(rows), width + num_new)
            presents[tensor.present] = self._scratch.take(tensor.present, longer, tensor.dtype)
        scores = self._compute(rows, frame, inputs, presents)
        self._keep(chunks, width, presents)
        return scores[: len(chunks)]

    def _keep(self, chunks: Sequence[Chunk], width: int, presents: Arrays) -> None:
        """Append to slots what was computed behind `width` tokens."""
        for tensor, array in zip(self._cache.tensors, self._cache.arrays, strict=True):
            source = np.moveaxis(presents[tensor.present], tensor.batch_axis, 0)
            for row, chunk in enumerate(chunks):
                start, count = chunk.start, len(chunk.token_ids)
                new = source[row][tokens_of(tensor, width, width + count)]
                array[chunk.slot][tokens_of(tensor, start, start + count)] = new

    def _compute(
        self, chunks: Sequence[Chunk], frame: "Frame", inputs: Arrays, presents: Arrays
    ) -> list[Logits]:
        port = self._layout.logits
        shape = (len(chunks), frame.num_logits, self.vocab_size)
        logits = self._scratch.take(port.name, shape, port.dtype)
        self._run(Binding(self._session, inputs, {**presents, port.name: logits}))
        skipped = frame.num_new - frame.num_logits
        ends = [len(chunk.token_ids) - skipped for chunk in chunks]
        return [
            row[end - chunk.num_logits : end] if chunk.num_logits else row[:0]
            for row, end, chunk in zip(logits, ends, chunks, strict=True)
        ]


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


def inputs_of(
    layout: Layout, chunks: Sequence[Chunk], frame: Frame, *, is_left_padded: bool
) -> Arrays:
    """Lay out the inputs of a run, new tokens padded on the right."""
    sizes = np.array([[len(chunk.token_ids)] for chunk in chunks])
    starts = np.array([[chunk.start] for chunk in chunks])
    token_ids = np.zeros((len(chunks), frame.num_new), np.int64)
    for row, chunk in zip(token_ids, chunks, strict=True):
        row[: len(chunk.token_ids)] = chunk.token_ids
    columns = np.arange(frame.width + frame.num_new)
    first = frame.width - starts if is_left_padded else 0
    kept = np.array([frame.num_logits])
    if layout.num_logits_to_keep and not layout.num_logits_to_keep.dimensions:
        kept = kept.reshape(())
    values: list[tuple[Port | None, NDArray[Any]]] = [
        (layout.input_ids, token_ids),
        (layout.attention_mask, (columns >= first) & (columns < first + starts + sizes)),
        # Padding has the last token's position, which is within what the graph knows.
        (layout.position_ids, starts + np.minimum(np.arange(frame.num_new), sizes - 1)),
        (layout.use_cache_branch, np.array([frame.width > 0])),
        (layout.num_logits_to_keep, kept),
    ]
    return {port.name: np.asarray(value, port.dtype, order="C") for port, value in values if port}


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
