"""The same work in several threads at once, as the engine's lanes do theirs."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


def in_lanes(count: int, work: Callable[[int], None]) -> None:
    """Call work(0) to work(count - 1) side by side; raise what one of them raises."""
    with ThreadPoolExecutor(count) as pool:
        list(pool.map(work, range(count)))
