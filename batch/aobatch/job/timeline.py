"""How a job went over time: a few hundred points at most, however long it takes."""

from collections.abc import Iterable, Sequence
from operator import add
from typing import NamedTuple

import msgspec

MAX_POINTS = 200
FIRST_SECONDS = 0.25
"""The time between two points at first; it doubles whenever there are too many of them."""


class Point(NamedTuple):
    """What had been computed at a time; everything counts from the beginning of the job."""

    run: int = 1
    """Which run of the job it was."""
    seconds: float = 0.0
    """Time in which requests were computed, without opening models."""
    lines: int = 0
    """Requests with a result."""
    prompt_tokens: int = 0
    """Prompt tokens that were computed."""
    new_tokens: int = 0
    """Tokens that were drawn."""
    rows: int = 0
    """Slots in use, summed over all steps."""
    slots: int = 0
    """Slots, summed over all steps."""


class Timeline(msgspec.Struct, frozen=True):
    """Points in columns; those of a resumed job continue those of its earlier runs."""

    run: list[int] = []
    """Which run of the job it was."""
    seconds: list[float] = []
    """Time in which requests were computed, without opening models."""
    lines: list[int] = []
    """Requests with a result."""
    prompt_tokens: list[int] = []
    """Prompt tokens that were computed."""
    new_tokens: list[int] = []
    """Tokens that were drawn."""
    rows: list[int] = []
    """Slots in use, summed over all steps of decoding."""
    slots: list[int] = []
    """Slots, summed over all steps of decoding."""


def timeline(points: Sequence[Point]) -> Timeline:
    """Put points into columns."""
    columns = zip(*points, strict=True)
    return Timeline(*map(list, columns))


def joined(timelines: Iterable[Timeline]) -> Timeline:
    """Put the courses of several parts of a job behind each other, as those of further runs."""
    points: list[Point] = []
    before = Point(run=0)
    for part in timelines:
        columns = [getattr(part, name) for name in Point._fields]
        points += [Point(*map(add, before, values)) for values in zip(*columns, strict=True)]
        before = points[-1] if points else before
    while len(points) > MAX_POINTS:
        points = thinned(points)
    return timeline(points)


def interval_after(seconds: float) -> float:
    """Give the time to the next point of a job that was computed for so long."""
    interval = FIRST_SECONDS
    while seconds > MAX_POINTS * interval:
        interval *= 2
    return interval


def thinned(points: Sequence[Point]) -> list[Point]:
    """Drop every second point but the last; what remains says the same, more coarsely."""
    return [*points[:-1:2], points[-1]]
