"""Laws of the timeline: few points, whatever the length, over all runs of a job."""

from itertools import pairwise
from pathlib import Path

import pytest

from aobatch.engine.config import EngineStatistics
from aobatch.executors import Statistics
from aobatch.job import compute as sampler
from aobatch.job.ledger import Ledger
from aobatch.job.report.page import rates, run_starts, shares
from aobatch.job.report.usage import MAX_POINTS, Point, interval_after, joined, thinned, timeline

WEEK = 7 * 86_400.0


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Give the time."""
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock by which points are noted."""
    clock = Clock()
    monkeypatch.setattr(sampler.time, "monotonic", clock.monotonic)
    return clock


@pytest.mark.parametrize("length", [3.0, 60.0, WEEK])
def test_points_stay_few_and_even(tmp_path: Path, clock: Clock, length: float) -> None:
    """A steady job of any length has at most 200 points, none of them far from its neighbours."""
    ledger = Ledger(tmp_path / "ledger.sqlite3")
    seen = EngineStatistics()
    recorder = sampler.TimelineRecorder(ledger, lambda: Statistics(engine=seen))
    recorder._note()
    started = clock.now
    while clock.now < started + length:
        clock.now += interval_after(clock.now - started)
        seen.sampled_tokens = int(100 * (clock.now - started))
        recorder._note()

    points = ledger.points()
    gaps = [after.seconds - before.seconds for before, after in pairwise(points)]
    assert len(points) <= MAX_POINTS
    assert len(points) >= min(length * 3, MAX_POINTS / 3)
    assert max(gaps) <= length / 40 + 1
    assert points[-1].new_tokens == pytest.approx(100 * points[-1].seconds, abs=1)
    ledger.close()


def test_runs_continue_each_other(tmp_path: Path, clock: Clock) -> None:
    """A second run's points begin where those of the first ended, in time and in counts."""
    for run in (1, 2):
        ledger = Ledger(tmp_path / "ledger.sqlite3")
        ledger.add_statistics(Statistics(runs=1))
        seen = EngineStatistics()
        counted = Statistics(engine=seen)
        with sampler.TimelineRecorder(ledger, lambda counted=counted: counted) as recorder:
            clock.now += 5
            seen.add(EngineStatistics(sampled_tokens=50, decode_rows=30, decode_slots=60))
            recorder.num_lines += 1
        assert len(ledger.points()) == 2 * run
        clock.now += 1000
        ledger.close()

    ledger = Ledger(tmp_path / "ledger.sqlite3")
    assert ledger.points() == [
        Point(1, 0.0, 0, 0, 0, 0, 0),
        Point(1, 5.0, 1, 0, 50, 30, 60),
        Point(2, 5.0, 1, 0, 50, 30, 60),
        Point(2, 10.0, 2, 0, 100, 60, 120),
    ]
    ledger.close()


def test_parts_follow_each_other() -> None:
    """Joined parts last as long and count as much as they do together; each is a run of its own."""
    parts = [
        timeline(
            [Point(1, 0.0), Point(1, 4.0, 8, 80, 40, 16, 32), Point(2, 5.0, 9, 90, 45, 20, 40)]
        ),
        timeline([]),
        timeline([Point(1, 0.0), Point(1, 2.5, 6, 60, 10, 9, 10)]),
    ]

    whole = joined(parts)

    assert whole.run == [1, 1, 2, 3, 3]
    assert whole.seconds == [0, 4, 5, 5, 7.5]
    assert (whole.lines[-1], whole.prompt_tokens[-1], whole.new_tokens[-1]) == (15, 150, 55)
    assert (whole.rows[-1], whole.slots[-1]) == (29, 50)
    assert run_starts(whole) == [5.0, 5.0]


def test_long_parts_are_thinned_together() -> None:
    """However many parts there are, the whole has no more points than one, and the same end."""
    part = timeline([Point(1, float(second), second) for second in range(150)])

    whole = joined([part] * 20)

    assert len(whole.run) <= MAX_POINTS
    assert (whole.run[-1], whole.seconds[-1], whole.lines[-1]) == (20, 149 * 20, 149 * 20)


def test_thinning_keeps_both_ends() -> None:
    """Half of the points go; the first and the last stay."""
    points = [Point(1, float(second)) for second in range(201)]

    kept = thinned(points)

    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert len(kept) == 101


def test_rates_are_those_of_the_counts() -> None:
    """The rates times their durations add up to what was counted, and follow its pace."""
    slow = [Point(1, float(t), new_tokens=10 * t) for t in range(11)]
    fast = [Point(2, 10.0 + t, new_tokens=100 + 70 * t) for t in range(11)]
    course = timeline([*slow, *fast])

    found = rates(course, course.new_tokens)

    assert sum(rate * (end - begin) for begin, end, rate in found if rate) == pytest.approx(800)
    assert [rate for _, end, rate in found if end <= 10] == pytest.approx([10] * 10, rel=0.05)
    assert [rate for begin, _, rate in found if begin >= 10] == pytest.approx([70] * 10, rel=0.05)
    assert run_starts(course) == [10.0]


def test_shares_of_nothing_are_gaps() -> None:
    """Where no step of decoding was made the share is not known, elsewhere it is a percentage."""
    counts = [(0, 0), (0, 0), (30, 40), (60, 80)]
    points = [Point(1, float(t), rows=rows, slots=slots) for t, (rows, slots) in enumerate(counts)]
    course = timeline(points)

    assert [share for _, _, share in shares(course, course.rows, course.slots)] == [None, 75, 75]
