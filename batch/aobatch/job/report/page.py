"""The usage report as one page of HTML that needs nothing else, with charts."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from aobatch.errors import UsageError
from aobatch.executors import Statistics
from aobatch.job.report.text import (
    failed_lines,
    money,
    occupancy,
    percentiles_text,
    savings,
    shown_users,
    worker_rates,
)
from aobatch.job.report.usage import Histogram, Timeline, UsageReport, nice_step
from aobatch.text import counted, duration, printable

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_USERS = 100
"""Users with a row of their own, those with most tokens; the others share one."""


def report_page(report: UsageReport, name: str) -> bytes:
    """Write the page of a report under the name of its output."""
    statistics = report.counted
    page = _environment().get_template("report.html")
    text = page.render(
        failed_lines=list(failed_lines(report)),
        report=report,
        name=printable(name, 120),
        users=shown_users(report, MAX_USERS),
        distributions=_distributions(report),
        time_charts=_time_charts(report.timeline),
        counted=statistics,
        phases=_phases(statistics),
        savings=savings(statistics),
        occupancy=occupancy(statistics),
        worker_rates=worker_rates(statistics),
        settings=_settings(report),
        width=WIDTH,
        height=HEIGHT,
    )
    return text.encode()


def _environment() -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        message = "reports in HTML need the extra [report]: `pip install jinja2` adds what it has"
        raise UsageError(message) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": lambda number: f"{number:,}",
        "printable": lambda text: printable(text, 60),
        "sentence": lambda text: printable(text, 300),
        "date": lambda time: datetime.fromtimestamp(time, UTC).strftime("%-d %b %Y, %H:%M UTC"),
        "duration": duration,
        "money": money,
    }
    return environment


def _distributions(report: UsageReport) -> list[tuple["Chart", str]]:
    """Draw how requests are spread, with the percentiles under each chart."""
    shapes = report.histograms
    drawn = (
        ("Prompt length", "tokens", shapes.prompt_tokens, report.prompt_tokens),
        ("Completion length", "tokens", shapes.completion_tokens, report.completion_tokens),
        ("Time in a slot", "s", shapes.seconds, report.seconds),
    )
    return [
        (
            histogram_chart(title, unit, values, is_whole=unit == "tokens"),
            percentiles_text(points, "{:,}" if unit == "tokens" else "{:,.2f} s"),
        )
        for title, unit, values, points in drawn
        if values.counts
    ]


def _time_charts(timeline: Timeline) -> list["Chart"]:
    """Draw what there was to see over time; a short job has nothing to show."""
    if len(timeline.seconds) <= 3 or timeline.seconds[-1] < LEAST_SECONDS:
        return []
    marks = run_starts(timeline)
    drawn = {
        "New tokens a second": timeline.new_tokens,
        "Prompt tokens read a second": timeline.prompt_tokens,
    }
    charts = [
        time_chart(title, "tokens/s", rates(timeline, counts), marks)
        for title, counts in drawn.items()
        if counts[-1]
    ]
    if timeline.slots[-1]:
        used = shares(timeline, timeline.rows, timeline.slots)
        charts.append(time_chart("Slots in use", "%", used, marks, highest=100))
    return charts


_SETTINGS: dict[str, tuple[str, dict[str, str]]] = {
    "chat_format": ("format of chats", {}),
    "clamp_max_tokens": (
        "max_tokens beyond the context",
        {"true": "shortened", "false": "refused"},
    ),
    "columns": ("columns of tables", {"{}": "as they are named"}),
    "ignore_unknown": ("unknown fields", {"true": "ignored", "false": "refused"}),
    "kernels": ("operators", {}),
    "kv_cache_dtype": ("keys and values", {}),
    "logprobs_mode": ("logprobs", {"raw": "of the model", "processed": "as drawn"}),
    "seed": ("seed of draws", {}),
}
"""What settings are called on the page, and their values."""


def _settings(report: UsageReport) -> dict[str, str]:
    """Write settings in words."""
    words = {name: _SETTINGS.get(name, (name, {})) for name in report.job.settings}
    return {
        words[name][0]: words[name][1].get(value, value)
        for name, value in report.job.settings.items()
    }


def _phases(statistics: Statistics) -> list[tuple[str, float]]:
    """What lanes, which work side by side, spent their time with: a name and a share of all."""
    engine = statistics.engine
    spent = {
        "reading prompts": engine.prefill_seconds,
        "decoding": engine.decode_seconds,
        "choosing tokens": engine.sample_seconds,
    }
    total = engine.lane_seconds
    spent["bookkeeping"] = max(0, total - sum(spent.values()))
    return [(name, seconds / total) for name, seconds in spent.items() if total]


MAX_PARTS = 48
LEAST_SECONDS = 1.0
"""What went on in a shorter job is not drawn over time."""

Series: TypeAlias = list[tuple[float, float, float | None]]
"""Begin and end in seconds, and a value for the time between them; None if there is none."""


def rates(timeline: Timeline, counts: Sequence[float]) -> Series:
    """The growth of a column per second, over equal parts of the time."""
    return [(begin, end, grown / (end - begin)) for begin, end, grown in _growth(timeline, counts)]


def shares(timeline: Timeline, part: Sequence[float], whole: Sequence[float]) -> Series:
    """The growth of a column in percent of that of another one."""
    both = zip(_growth(timeline, part), _growth(timeline, whole), strict=True)
    return [
        (begin, end, 100 * some / every if every else None)
        for (begin, end, some), (_, _, every) in both
    ]


def run_starts(timeline: Timeline) -> list[float]:
    """The times at which the second and later runs began."""
    runs = pairwise(timeline.run)
    times = timeline.seconds[1:]
    return [time for time, (before, run) in zip(times, runs, strict=True) if run != before]


def _growth(timeline: Timeline, counts: Sequence[float]) -> list[tuple[float, float, float]]:
    parts = min(MAX_PARTS, len(timeline.seconds) - 1)
    times = [timeline.seconds[-1] * index / parts for index in range(parts + 1)]
    points = [(time, _interpolated(timeline.seconds, counts, time)) for time in times]
    return [(begin, end, after - before) for (begin, before), (end, after) in pairwise(points)]


def _interpolated(times: Sequence[float], counts: Sequence[float], time: float) -> float:
    after = min(bisect_right(times, time), len(times) - 1)
    if after == 0:
        return counts[0]
    begin, end = times[after - 1], times[after]
    share = min(1.0, (time - begin) / (end - begin)) if end > begin else 1.0
    return counts[after - 1] + (counts[after] - counts[after - 1]) * share


WIDTH, HEIGHT = 360, 210
TOP, RIGHT, BOTTOM = 22, 14, 34
LEAST_BARS = 10
"""A histogram of fewer bars does not become wider for it."""
_CHARACTER = 6.4
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200)
"""Good distances of labels on an axis of time."""


Tick: TypeAlias = tuple[float, str]
"""A place on an axis and what is written there."""


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
    x_label: str
    y_label: str
    left: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    bars: list[Bar]
    """Of a histogram; of a chart over time those that a pointer finds, which are not seen."""
    line: str = ""
    area: str = ""
    marks: tuple[float, ...] = ()


def histogram_chart(title: str, unit: str, values: Histogram, *, is_whole: bool) -> Chart:
    """Draw a bar a bucket; buckets of whole values are named by the first and the last."""
    frame = _Frame(max(values.counts), is_whole=True)
    count = len(values.counts)
    size = (values.bounds[-1] - values.bounds[0]) / count
    step = frame.width / max(count, LEAST_BARS)
    start = frame.left + (frame.width - count * step) / 2
    gap = min(2.0, step / 6)
    bars = []
    for index, (number, (low, end)) in enumerate(
        zip(values.counts, pairwise(values.bounds), strict=True)
    ):
        ends = dict.fromkeys(_exact(value, size) for value in (low, end - is_whole))
        label = f"{'–'.join(ends)} {unit}: {counted(number, 'request')}"
        x, top = round(start + index * step + gap / 2, 1), frame.y(number)
        bars.append(Bar(x, top, round(step - gap, 1), round(frame.baseline - top, 1), label))
    ticks = [
        (round(start + index * step, 1), _exact(values.bounds[index], size))
        for index in _labelled(values, frame.width)
    ]
    if count == 1:
        ticks = [(round(start + step / 2, 1), _number(values.bounds[0]))]
    return Chart(title, unit, "requests", frame.left, ticks, frame.ticks, bars)


def _labelled(values: Histogram, width: float) -> range:
    """Choose the bounds that have room for a label: multiples of a round number of bars."""
    count = len(values.counts)
    size = (values.bounds[-1] - values.bounds[0]) / count
    longest = max(len(_exact(bound, size)) for bound in values.bounds)
    most = max(1, min(6, int(width / (longest * _CHARACTER + 12))))
    every = max(1, round(nice_step(math.ceil((count + 1) / most), smallest=1)))
    return range(-round(values.bounds[0] / size) % every, count + 1, every)


def time_chart(
    title: str,
    unit: str,
    series: Series,
    marks: Sequence[float] = (),
    highest: float | None = None,
) -> Chart:
    """Draw what went on from time to time; the line passes over parts that say nothing."""
    total = series[-1][1]
    seen = [(begin, end, value) for begin, end, value in series if value is not None]
    frame = _Frame(highest or max(value for _, _, value in seen), suffix="%" * (unit == "%"))
    spots, points = [], []
    for begin, end, value in seen:
        x, x_end, y = frame.x(begin / total), frame.x(end / total), frame.y(value)
        points.append(f"{(x + x_end) / 2:.1f} {y:.1f}")
        label = f"{duration(begin)} to {duration(end)}: {_number(value)} {unit}"
        spots.append(Bar(x, TOP, round(x_end - x, 1), frame.baseline - TOP, label))
    begin, end = frame.x(seen[0][0] / total), frame.x(seen[-1][1] / total)
    first, last = (points[index].split()[1] for index in (0, -1))
    line = f"M{begin} {first}L{'L'.join(points)}L{end} {last}"
    area = f"{line}V{frame.baseline}H{begin}Z"
    ticks = [(frame.x(time / total), _time(time)) for time in _round_times(total)]
    places = tuple(frame.x(mark / total) for mark in marks)
    y_label = "of all slots" if unit == "%" else unit
    return Chart(title, "time", y_label, frame.left, ticks, frame.ticks, spots, line, area, places)


class _Frame:
    """The place between the axes, for values from nothing to a highest one."""

    baseline = HEIGHT - BOTTOM

    def __init__(self, highest: float, *, is_whole: bool = False, suffix: str = "") -> None:
        step = nice_step((highest or 1) / 5, smallest=1 if is_whole else 1e-9)
        self._top = max(highest, step)
        count = math.floor(self._top / step + 1e-9)
        labels = [f"{_exact(index * step, step)}{suffix}" for index in range(count + 1)]
        self.left = round(max(map(len, labels)) * _CHARACTER + 10, 1)
        self.width = WIDTH - RIGHT - self.left
        self.ticks = [(self.y(index * step), label) for index, label in enumerate(labels)]

    def x(self, share: float) -> float:
        return round(self.left + self.width * share, 1)

    def y(self, value: float) -> float:
        return round(self.baseline - (self.baseline - TOP) * value / self._top, 1)


def _round_times(total: float) -> list[float]:
    """Choose up to six round times within a whole time."""
    wanted = total / 5
    longest = 86_400 * math.ceil(wanted / 86_400)
    step = next((s for s in _TIMES if s >= wanted), longest) if wanted > 1 else nice_step(wanted)
    return [index * step for index in range(math.floor(total / step) + 1)]


def _number(value: float) -> str:
    """Write a number as short as an axis wants it."""
    return f"{value:,.0f}" if value == int(value) or abs(value) >= 100 else f"{value:.3g}"


def _exact(value: float, step: float) -> str:
    """Write a number with as many digits as tell it from its neighbours a step away."""
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if 0 < step < 1 else 0
    return f"{value:,.{digits}f}"


def _time(seconds: float) -> str:
    """Write a time in its greatest unit."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{_number(seconds / size)} {unit}"
    return f"{_number(seconds)} s" if seconds else "0"
