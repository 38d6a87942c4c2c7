"""How an exported graph is to be computed: tried on itself, before anything is computed with it.

The prompts alone, without any padding, are what is right. Padding is used if it gives the same
numbers, and rows are computed together if each has the bits that it has alone. What is tried is a
sample: that it holds for all rows rests on kernels which sum row by row.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.models.checks import unusable
from aobatch.models.foreign_layout import Layout
from aobatch.runners import Chunk, ModelRunner
from aobatch.runners.session import RunError

MAX_ROWS = 64
_WIDTH_STEP, _CHUNK_STEP = 64, 16

_SIZES = (18, 3, 1, 9, 6)
"""Tokens of the prompts, which have the same number as the one of five before."""
_NUM_PROMPTS = 9
_BATCHES = ((*range(9), *range(8)), (0, 5, 0), (1, 6, 3), (2, 7), (4, 8))
"""Rows that are computed together: of many lengths, and of one with others' tokens."""
_CAPACITY = 64
_SAME, _SIMILAR = 0.01, 0.3
"""How far scores may be from others, in standard deviations: by rounding alone, and where a graph
rounds by the largest value of all that it is given."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """How rows are laid out; everything that shapes a row's numbers follows from the row alone."""

    pads: bool
    """Whether rows of different lengths are padded, or computed together only if none need be."""
    max_rows: int
    min_tokens: int = 1
    """How many new tokens a run has at least; some kernels take one alone in another way."""


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What the rows of one run have in common."""

    width: int
    """Tokens behind which the new ones stand."""
    num_new: int
    """New tokens; 0 if rows may have different numbers of them."""


def lengthening_shape(chunk: Chunk, schedule: Schedule) -> Shape:
    """Say in which shape attention that makes a longer cache computes a chunk.

    Sums over a row's past have as many terms as it is wide, so the width is the row's own.
    """
    size = len(chunk.token_ids)
    if not schedule.pads:
        return Shape(chunk.start, size)
    num_new = 1 if size == 1 else _rounded(size, _CHUNK_STEP)
    return Shape(_rounded(chunk.start, _WIDTH_STEP), num_new)


def sharing_shape(chunk: Chunk, schedule: Schedule) -> Shape:
    """Say what chunks have in common for attention that writes into the cache which it reads.

    It knows every row's length. Prompts that begin may differ in theirs, steps are all alike, and
    several tokens behind others are computed alone (see `runs`), for the kernel takes one row then.
    """
    size = len(chunk.token_ids)
    if chunk.start:
        return Shape(1, size)
    return Shape(0, 0 if schedule.pads else size)


def runs(
    shapes: Sequence[Shape], max_rows: int, *, of_neighbours: bool
) -> Iterator[tuple[Shape, list[int]]]:
    """Yield which rows are computed together, given by their places."""
    order = list(range(len(shapes)))
    if not of_neighbours:
        order.sort(key=shapes.__getitem__)
    for shape, members in groupby(order, key=shapes.__getitem__):
        rows = list(members)
        limit = 1 if of_neighbours and shape.width and shape.num_new > 1 else max_rows
        for first in range(0, len(rows), limit):
            yield shape, rows[first : first + limit]


def settle(graph: Path, layout: Layout, scheduled: Callable[[Schedule], ModelRunner]) -> Schedule:
    """Find the schedule of a graph; ModelError if its cache does not do what a cache is for."""
    found = Schedule(pads=False, max_rows=1)
    try:
        expected, whole = _observed(scheduled(found)), _whole(scheduled(found))
    except RunError as error:
        raise unusable(graph, f"ONNX Runtime cannot compute it: {error}") from error
    if not _is_close(expected, whole, _SIMILAR):
        raise unusable(graph, "tokens behind its cache do not give what the whole prompt gives")
    # Padding can be right where a graph is told lengths, and places.
    if layout.attention_mask and (layout.shares_buffers or layout.position_ids):
        padded = replace(found, pads=True)
        with suppress(RunError):  # kernels that keep a window alone refuse padding
            scores = _observed(scheduled(padded))
            if _is_close(scores, expected, _SAME):
                found, expected = padded, scores
    return found if layout.has_one_row else _batched(layout, scheduled, found, expected)


def _batched(
    layout: Layout,
    scheduled: Callable[[Schedule], ModelRunner],
    alone: Schedule,
    expected: Logits,
) -> Schedule:
    """Give the schedule of many rows if no row feels the others, else that of one."""
    batched = replace(alone, max_rows=MAX_ROWS)
    if _feel_nothing(scheduled(batched), expected):
        return batched
    if layout.shares_buffers:  # a row beside would need a slot
        return alone
    # Products of 4-bit weights have another kernel for a single token.
    paired, batched = (replace(schedule, min_tokens=2) for schedule in (alone, batched))
    return batched if _feel_nothing(scheduled(batched), _observed(scheduled(paired))) else alone


def _feel_nothing(runner: ModelRunner, expected: Logits) -> bool:
    """Say whether rows of many batches have the bits that are expected of each."""
    return all(np.array_equal(_observed(runner, rows), expected[list(rows)]) for rows in _BATCHES)


def _observed(runner: ModelRunner, rows: Sequence[int] = range(_NUM_PROMPTS)) -> Logits:
    """Compute prompts, a step behind each, and two more tokens; all scores, [rows, 3, V]."""
    runner.reserve(len(rows), _CAPACITY, [])
    prompts, behind = zip(*(_tokens(row, runner.vocab_size) for row in rows), strict=True)
    sizes = np.array([len(prompt) for prompt in prompts])
    chunks = [Chunk(slot, 0, prompt, 1) for slot, prompt in enumerate(prompts)]
    found = [runner.prefill(chunks).copy()]
    found.append(runner.decode(np.array([ids[0] for ids in behind]), sizes).copy())
    chunks = [Chunk(s, int(sizes[s]) + 1, ids[1:], 1) for s, ids in enumerate(behind)]
    found.append(runner.prefill(chunks).copy())
    return np.stack(found, axis=1)


def _whole(runner: ModelRunner) -> Logits:
    """Compute the same positions, each prompt and what follows at once; [rows, 3, V]."""
    found = []
    for row in range(_NUM_PROMPTS):
        runner.reserve(1, _CAPACITY, [])
        whole = np.concatenate(_tokens(row, runner.vocab_size))
        found.append(runner.prefill([Chunk(0, 0, whole, 4)])[[0, 1, 3]])
    return np.stack(found)


def _tokens(row: int, vocab_size: int) -> tuple[TokenIds, TokenIds]:
    """Draw a prompt, and three tokens that follow it."""
    count = _SIZES[row % len(_SIZES)]
    drawn = np.random.default_rng(row).integers(0, vocab_size, count + 3)
    return drawn[3:], drawn[:3]


def _is_close(found: Logits, expected: Logits, bound: float) -> bool:
    """Say whether every row of scores is as close to another as the bound says."""
    distance = np.sqrt(np.square(found - expected, dtype=np.float64).mean(axis=-1))
    return bool((distance <= bound * expected.std(axis=-1, dtype=np.float64)).all())


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step
