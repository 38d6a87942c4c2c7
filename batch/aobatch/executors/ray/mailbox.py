"""Between the calls of the driver and the thread of an engine."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from threading import Condition

from aobatch.api.request import Request
from aobatch.executors.ray.messages import Failure, Outcome, Piece


class Mailbox:
    """Requests that wait for an engine, and what it made of earlier ones.

    An engine iterates over the requests; a None says that there are no more for now.
    """

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        """`on_arrival` is called whenever requests have come."""
        self._on_arrival = on_arrival
        self._requests: deque[Request] = deque()
        self._items: list[Outcome | Piece] = []
        self._failure: Failure | None = None
        self._changed = Condition()

    def __iter__(self) -> Iterator[Request | None]:
        """Give itself."""
        return self

    def __next__(self) -> Request | None:
        """Give the next request; never blocks, and never ends."""
        with self._changed:
            return self._requests.popleft() if self._requests else None

    def add(self, requests: Iterable[Request]) -> None:
        """Let requests wait behind the others."""
        with self._changed:
            self._requests.extend(requests)
        self._on_arrival()

    def give_back(self, count: int) -> list[str]:
        """Take so many requests away again, those that came last; give their keys."""
        with self._changed:
            return [self._requests.pop().key for _ in range(min(count, len(self._requests)))]

    def put(self, item: Outcome | Piece) -> None:
        """Keep what the engine has made, until it is collected."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def fail(self, failure: Failure) -> None:
        """Note that the engine makes nothing more."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def collect(
        self, patience: float, interval: float
    ) -> tuple[list[Outcome | Piece], Failure | None]:
        """Wait for the first item, then for more; give all."""
        with self._changed:
            if self._changed.wait_for(lambda: self._items or self._failure, patience):
                self._changed.wait_for(lambda: self._failure, interval)
            items, self._items = self._items, []
            return items, self._failure
