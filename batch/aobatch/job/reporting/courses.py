"""Rates over time, out of the counts of a timeline."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import TypeAlias

from aobatch.job.timeline import Timeline

MAX_PARTS = 48
LEAST_SECONDS = 1.0
"""The course of a shorter job says nothing."""

Course: TypeAlias = list[tuple[float, float, float | None]]
"""Begin and end in seconds, and what went on in between; None if nothing can be said."""


def rates(timeline: Timeline, counts: Sequence[float]) -> Course:
    """Give the growth a second of a column, in equal parts of the time."""
    return [(begin, end, grown / (end - begin)) for begin, end, grown in _growth(timeline, counts)]


def shares(timeline: Timeline, part: Sequence[float], whole: Sequence[float]) -> Course:
    """Give the growth of a column as percentage of that of another one."""
    both = zip(_growth(timeline, part), _growth(timeline, whole), strict=True)
    return [
        (begin, end, 100 * some / every if every else None)
        for (begin, end, some), (_, _, every) in both
    ]


def is_drawable(timeline: Timeline) -> bool:
    """Say whether the course of a job was long enough to be drawn."""
    return len(timeline.seconds) > 3 and timeline.seconds[-1] >= LEAST_SECONDS


def run_starts(timeline: Timeline) -> list[float]:
    """Give the times at which the second and later runs began."""
    pairs = zip(timeline.run, timeline.run[1:], strict=False)
    return [timeline.seconds[i + 1] for i, (run, after) in enumerate(pairs) if run != after]


def _growth(timeline: Timeline, counts: Sequence[float]) -> list[tuple[float, float, float]]:
    parts = min(MAX_PARTS, len(timeline.seconds) - 1)
    total = timeline.seconds[-1]
    times = [total * index / parts for index in range(parts + 1)]
    totals = [_between(timeline.seconds, counts, time) for time in times]
    return [
        (times[index], times[index + 1], totals[index + 1] - totals[index])
        for index in range(parts)
    ]


def _between(times: Sequence[float], counts: Sequence[float], time: float) -> float:
    """Interpolate a count at a time."""
    after = min(bisect_right(times, time), len(times) - 1)
    if after == 0:
        return counts[0]
    begin, end = times[after - 1], times[after]
    share = min(1.0, (time - begin) / (end - begin)) if end > begin else 1.0
    return counts[after - 1] + (counts[after] - counts[after - 1]) * share
