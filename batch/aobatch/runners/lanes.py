"""Runners that work side by side, each in a thread of its own, over the same weights."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from aobatch.runners import ModelRunner


def session_threads(threads: int, num_lanes: int) -> int:
    """Say how many threads a session may use, the caller's own included.

    Each lane is a thread itself; what is left helps all of them inside their runs.
    """
    return threads - num_lanes + 1


def with_siblings(runner: ModelRunner, num_lanes: int) -> list[ModelRunner]:
    """Give a runner for each lane, the given one first."""
    return [runner, *(runner.sibling() for _ in range(1, num_lanes))]


def in_lanes(count: int, work: Callable[[int], None]) -> None:
    """Call work(0) to work(count - 1) side by side; raise what one of them raises."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
