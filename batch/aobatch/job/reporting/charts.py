"""Geometry of small charts: values to places in a drawing of fixed size, text for their axes."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from aobatch.job.histogram import Histogram, nice_step
from aobatch.job.notes import duration
from aobatch.job.reporting.courses import Course
from aobatch.text import counted

WIDTH, HEIGHT = 360, 188
TOP, RIGHT, BOTTOM = 10, 14, 24
LEAST_BARS = 10
"""A histogram of fewer bars does not become wider for it."""
_CHARACTER = 6.4
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
"""Good distances of labels on an axis of time."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and what is written there."""

    place: float
    label: str


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a chart and what a pointer over it tells."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing; everything in it has its place."""

    title: str
    unit: str
    left: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar]
    """Of a histogram; of a course of time those that a pointer finds, which are not seen."""
    line: str = ""
    area: str = ""
    marks: tuple[float, ...] = ()


def histogram_chart(title: str, unit: str, values: Histogram, *, is_whole: bool) -> Chart:
    """Draw a bar a bucket."""
    frame = _Frame(max(values.counts), is_whole=True)
    count = len(values.counts)
    step = frame.width / max(count, LEAST_BARS)
    start = frame.left + (frame.width - count * step) / 2
    gap = min(2.0, step / 6)
    bars = []
    for index, number in enumerate(values.counts):
        top = frame.y(number)
        bucket = bucket_label(values, index, is_whole=is_whole)
        label = f"{bucket} {unit}: {counted(number, 'request')}"
        x = round(start + index * step + gap / 2, 1)
        bars.append(Bar(x, top, round(step - gap, 1), round(frame.baseline - top, 1), label))
    every = math.ceil((count + 1) / 6)
    ticks = [
        Tick(round(start + index * step, 1), number_label(values.bounds[index]))
        for index in range(0, count + 1, every)
    ]
    return Chart(title, unit, frame.left, ticks, frame.ticks, bars)


def bucket_label(values: Histogram, index: int, *, is_whole: bool) -> str:
    """Name the values of a bucket, whole ones by the first and the last."""
    low, high = values.bounds[index], values.bounds[index + 1] - is_whole
    return number_label(low) if low == high else f"{number_label(low)}–{number_label(high)}"


def course_chart(
    title: str,
    unit: str,
    course: Course,
    marks: Sequence[float] = (),
    highest: float | None = None,
) -> Chart:
    """Draw what went on from time to time; the line passes over parts that say nothing."""
    total = course[-1][1]
    seen = [(begin, end, value) for begin, end, value in course if value is not None]
    frame = _Frame(highest or max(value for _, _, value in seen), suffix="%" * (unit == "%"))
    spots, points = [], []
    for begin, end, value in seen:
        x, x_end, y = frame.x(begin / total), frame.x(end / total), frame.y(value)
        points.append(f"{(x + x_end) / 2:.1f} {y:.1f}")
        label = f"{duration(begin)} to {duration(end)}: {number_label(value)} {unit}"
        spots.append(Bar(x, TOP, round(x_end - x, 1), frame.baseline - TOP, label))
    begin, end = frame.x(seen[0][0] / total), frame.x(seen[-1][1] / total)
    first, last = (points[index].split()[1] for index in (0, -1))
    line = f"M{begin} {first}L{'L'.join(points)}L{end} {last}"
    area = f"{line}V{frame.baseline}H{begin}Z"
    ticks = [Tick(frame.x(time / total), time_label(time)) for time in _times(total)]
    places = tuple(frame.x(mark / total) for mark in marks)
    return Chart(title, unit, frame.left, ticks, frame.ticks, spots, line, area, places)


def number_label(value: float) -> str:
    """Write a number as short as an axis wants it."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def time_label(seconds: float) -> str:
    """Write a time in its greatest unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{number_label(seconds / size)} {unit}"
    return f"{number_label(seconds)} s" if seconds else "0"


class _Frame:
    """The place between the axes, for values from nothing to a highest one."""

    baseline = HEIGHT - BOTTOM

    def __init__(self, highest: float, *, is_whole: bool = False, suffix: str = "") -> None:
        step = nice_step((highest or 1) / 5, smallest=1 if is_whole else 1e-9)
        self._top = max(highest, step)
        count = math.floor(self._top / step + 1e-9)
        labels = [f"{number_label(index * step)}{suffix}" for index in range(count + 1)]
        self.left = round(max(map(len, labels)) * _CHARACTER + 10, 1)
        self.width = WIDTH - RIGHT - self.left
        self.ticks = [Tick(self.y(index * step), label) for index, label in enumerate(labels)]

    def x(self, share: float) -> float:
        return round(self.left + self.width * share, 1)

    def y(self, value: float) -> float:
        return round(self.baseline - (self.baseline - TOP) * value / self._top, 1)


def _times(total: float) -> list[float]:
    """Choose up to six round times within a whole time."""
    wanted = total / 5
    if wanted <= 1:
        step = nice_step(wanted)
    else:
        longest = 86_400 * math.ceil(wanted / 86_400)
        step = next((step for step in _TIMES if step >= wanted), longest)
    return [index * step for index in range(math.floor(total / step) + 1)]
