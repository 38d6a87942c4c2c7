"""Points of a timeline, noted by a thread of its own while an executor computes."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress

from aobatch.errors import JobError
from aobatch.job.ledger import Ledger
from aobatch.job.timeline import MAX_POINTS, Point, interval_after, thinned

Statistics = Callable[[], Mapping[str, float]]


class TimelineRecorder:
    """Notes what an executor has computed, now and then, behind the points of earlier runs."""

    def __init__(self, ledger: Ledger, statistics: Statistics) -> None:
        self._ledger = ledger
        self._statistics = statistics
        self._num_lines = 0
        self._points = ledger.points()
        self._before = self._points[-1] if self._points else Point()
        self._run = int(ledger.statistics.get("runs", 1))
        self._started = time.monotonic()
        self._is_stopped = threading.Event()

    def count_line(self) -> None:
        """Count a result."""
        self._num_lines += 1

    def work(self) -> None:
        """Note points until it is stopped."""
        # A ledger that cannot be written is the business of whoever writes results.
        with suppress(JobError):
            while not self._is_stopped.wait(interval_after(self._points[-1].seconds)):
                self.note()

    def note(self) -> None:
        """Add the point of this moment."""
        seen, before = self._statistics(), self._before
        point = Point(
            self._run,
            round(before.seconds + time.monotonic() - self._started, 3),
            before.lines + self._num_lines,
            before.prompt_tokens + int(seen.get("prefill_tokens", 0)),
            before.new_tokens + int(seen.get("sampled_tokens", 0)),
            before.rows + int(seen.get("decode_rows", 0)),
            before.slots + int(seen.get("decode_slots", 0)),
        )
        self._points.append(point)
        if len(self._points) > MAX_POINTS:
            self._points = thinned(self._points)
            self._ledger.replace_points(self._points)
        else:
            self._ledger.add_point(point)

    def stop(self) -> None:
        """Note no more."""
        self._is_stopped.set()


@contextmanager
def recorded_timeline(ledger: Ledger, statistics: Statistics) -> Iterator[TimelineRecorder]:
    """Note points while the block runs, one at its beginning and one at its end."""
    recorder = TimelineRecorder(ledger, statistics)
    recorder.note()
    thread = threading.Thread(target=recorder.work, name="timeline", daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        recorder.stop()
        thread.join()
        with suppress(JobError):
            recorder.note()
