"""Which rows an exported graph computes together, and in what shape, so that none feels another."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from aobatch.runners import Chunk

MAX_ROWS = 64
_WIDTH_STEP, _CHUNK_STEP = 64, 16


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
    """Give the shape in which attention that makes a longer cache computes a chunk.

    Sums over a row's past have as many terms as it is wide, so the width is the row's own.
    """
    size = len(chunk.token_ids)
    if not schedule.pads:
        return Shape(chunk.start, size)
    num_new = 1 if size == 1 else _rounded(size, _CHUNK_STEP)
    return Shape(_rounded(chunk.start, _WIDTH_STEP), num_new)


def sharing_shape(chunk: Chunk, schedule: Schedule) -> Shape:
    """Give what chunks have in common for attention that writes into the cache which it reads.

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


def _rounded(size: int, step: int) -> int:
    return -(-size // step) * step
