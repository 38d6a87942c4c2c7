"""Signals that end a run: the first one cleanly, the second one at once."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
RETRY_SECONDS = 0.01


class Interrupted(KeyboardInterrupt):
    """The first signal; it unwinds the job, which keeps its results on the way."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class OutOfTime(KeyboardInterrupt):
    """The time limit; it unwinds the job as a signal does."""


@contextmanager
def limited_time(seconds: float | None) -> Iterator[None]:
    """Raise OutOfTime in the block after so many seconds, never if None."""
    if seconds is None:
        yield
        return
    handler = signal.signal(signal.SIGALRM, _end_time)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn the first signal in the block into Interrupted; a second one kills."""
    handlers, hook = {number: signal.getsignal(number) for number in STOPPING}, sys.unraisablehook
    # nohup and a shell's background jobs ignore signals on purpose.
    caught = [number for number in STOPPING if handlers[number] not in {signal.SIG_IGN, None}]
    for number in caught:
        signal.signal(number, _interrupt)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, handlers[number])
        sys.unraisablehook = hook


def die_by(number: int) -> NoReturn:
    """End the process by a signal, so that shells and make see what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise SystemExit(128 + number)


def _end_time(_number: int, frame: FrameType | None) -> None:
    _stop(OutOfTime(), frame)


def _interrupt(number: int, frame: FrameType | None) -> None:
    # Another signal that came before this one was obeyed would be told in a traceback, not obeyed.
    sys.unraisablehook = lambda _: None
    for other in STOPPING:
        if signal.getsignal(other) == _interrupt:
            signal.signal(other, signal.SIG_DFL)
    _stop(Interrupted(number), frame)


def _stop(reason: KeyboardInterrupt, frame: FrameType | None) -> None:
    """Raise a reason to stop, once nothing is being imported."""
    if _is_importing(frame):
        # An extension in C++ that meets an exception while it is imported ends the process, or
        # hides the exception behind another one.
        signal.signal(signal.SIGALRM, lambda _, frame: _stop(reason, frame))
        signal.setitimer(signal.ITIMER_REAL, RETRY_SECONDS)
        return
    # The limit is not to break into the clean stop.
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise reason


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None
