"""One run of an exported graph over rows of slots, in memory that is used again."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from aobatch.models.foreign_layout import Layout
from aobatch.runners import Chunk
from aobatch.runners.feeds import Frame, feeds_of, kept_logits
from aobatch.runners.schedule import Shape
from aobatch.runners.session import Interruption, Session
from aobatch.runners.slot_cache import SlotCache


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
