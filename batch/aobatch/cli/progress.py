"""Progress on standard error: a bar for people, a line now and then for logs."""

import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias

from tqdm import tqdm

from aobatch.cli.console import say, shows_bars
from aobatch.job.context import Progress, Unwatched
from aobatch.text import counted, escape

LINE_SECONDS = 30.0
ROOM = 2
ERASE_LINE = "\x1b[K"


if TYPE_CHECKING:
    Tqdm: TypeAlias = tqdm[NoReturn]
else:
    Tqdm = tqdm


class RoomyBar(Tqdm):
    """A bar that leaves room for the ^C behind it, which would break its line."""

    @property
    def format_dict(self) -> MutableMapping[str, Any]:
        """Give what the bar is drawn from."""
        facts = super().format_dict
        if facts["ncols"]:
            facts["ncols"] = max(1, facts["ncols"] - ROOM)
        return facts


_OPENING = "opening the model, {n_fmt} of {total_fmt} lines answered"
"""What stands in the place of a bar until the first tokens come: nothing moves."""


class Bar(Progress):
    """A bar on a terminal; one that was closed does not stop the job."""

    def __init__(self) -> None:
        self._bar: RoomyBar | None = None
        self._num_tokens = self._num_failed = 0

    def start(self, total: int, known: int) -> None:
        """Draw the bar."""
        with suppress(OSError):
            self._bar = RoomyBar(
                total=total,
                initial=known,
                unit=" lines",
                dynamic_ncols=True,
                leave=False,
                bar_format=_OPENING if known < total else None,
            )

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Move the bar."""
        if self._bar is None:
            return
        with suppress(OSError):
            if num_tokens and self._bar.bar_format:
                # Neither fetching nor opening the model says how long the rest takes.
                self._bar.bar_format, self._bar.initial = None, self._bar.n
                self._bar.start_t = time.time()
            self._num_tokens += num_tokens
            self._bar.set_postfix_str(self._facts(), refresh=False)
            self._bar.update(num_lines)

    def fail(self) -> None:
        """Count a failed line."""
        self._num_failed += 1

    def _facts(self) -> str:
        seconds = time.time() - self._bar.start_t if self._bar is not None else 0
        speed = f"{self._num_tokens / seconds:,.0f} tokens/s" if seconds > 1 else ""
        failed = f"{self._num_failed:,} failed" if self._num_failed else ""
        return ", ".join(filter(None, (speed, failed)))

    def warn(self, message: str) -> None:
        """Say it above the bar."""
        with suppress(OSError):
            tqdm.write(escape(f"aobatch: {message}"), file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            with suppress(OSError):
                self._bar.close()
                # The ^C behind the bar, too.
                sys.stderr.write(ERASE_LINE)
                sys.stderr.flush()


class Lines(Progress):
    """A line each 30 seconds, whether anything finished meanwhile or not."""

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self._seconds = seconds
        self._stopped = threading.Event()
        self._total = self._known = self._num_lines = self._num_tokens = self._num_failed = 0
        self._started = 0.0
        self._thread: threading.Thread | None = None

    def start(self, total: int, known: int) -> None:
        """Say what there is to do and begin to report."""
        self._total, self._known = total, known
        kept = f", {counted(known, 'result')} kept from before" if known else ""
        say(f"{counted(total, 'line')}{kept}", event="start", lines=total, known=known)
        self._thread = threading.Thread(target=self._report, daemon=True)
        self._thread.start()

    def advance(self, num_lines: int, num_tokens: int) -> None:
        """Count an answer; the first tokens start the clock, since a model may be fetched first."""
        self._num_lines += num_lines
        if num_tokens and not self._started:
            self._started = time.monotonic()
        elif num_tokens:
            self._num_tokens += num_tokens

    def fail(self) -> None:
        """Count a failed line."""
        self._num_failed += 1

    def warn(self, message: str) -> None:
        """Say it."""
        say(message, level="warning")

    def close(self) -> None:
        """Report no more: nothing is said after this."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _report(self) -> None:
        while not self._stopped.wait(self._seconds):
            # Without tokens behind the first ones it is 0, whatever the clock says.
            speed = self._num_tokens / max(1e-9, time.monotonic() - self._started)
            answered = self._known + self._num_lines
            failed = f", {self._num_failed:,} of them failed" if self._num_failed else ""
            say(
                f"{answered:,} of {self._total:,} lines{failed}, {speed:,.1f} new tokens a second",
                event="progress",
                lines=self._total,
                answered=answered,
                failed=self._num_failed,
                tokens_per_second=round(speed, 1),
            )


_COUNTED = {
    "downloading": "B",
    "taking": "B",
    "converting": " weights",
    "computing": " weights",
    "measuring": " tokens",
}
"""What stages count, by their first word."""


class StageBars:
    """A bar for each stage of fetching and converting a model."""

    def __init__(self) -> None:
        self._stage = ""
        self._bar: RoomyBar | None = None

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if stage != self._stage:
            self.close()
            self._stage = stage
            counted = _COUNTED.get(stage.partition(" ")[0])
            self._bar = RoomyBar(
                total=total,
                desc=escape(stage),
                dynamic_ncols=True,
                unit=counted or "it",
                unit_scale=counted is not None,
            )
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
        if done >= total:
            self.close()

    def close(self) -> None:
        """Leave the last bar as it is."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def job_progress(*, is_quiet: bool) -> Progress:
    """Choose how to show a job."""
    if is_quiet:
        return Unwatched()
    return Bar() if shows_bars() else Lines()


@contextmanager
def stage_progress(*, is_quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """Choose how to show a model being fetched and converted."""
    if is_quiet:
        yield lambda *_: None
    elif shows_bars():
        with closing(StageBars()) as bars:
            yield bars
    else:
        yield _StageLines()


class _StageLines:
    """A line for each stage, and where a long one is each 30 seconds."""

    def __init__(self) -> None:
        self._stage, self._said = "", 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Say how far a stage is, if it is time to."""
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._said = stage, now
            say(stage, event="stage")
        elif now - self._said >= LINE_SECONDS:
            self._said = now
            say(f"{stage}: {done / total:.0%}", event="stage", done=done, total=total)
