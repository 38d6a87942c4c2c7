"""Calls that may stay in native code for long, awaited so that a signal ends the wait."""

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import TypeVar

T = TypeVar("T")


def interruptible(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own and give or raise what it does.

    Python hears signals between two steps of the main thread, which must not be in native code
    then. After an exception from a signal the thread is left to itself.
    """
    outcomes: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            outcomes.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcomes.put((None, error))

    Thread(target=work, name="waiting", daemon=True).start()
    value, error = outcomes.get()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
