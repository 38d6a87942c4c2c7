"""The requests of a run: which wait, which may have killed a worker, which are suspect."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence, Set

from aobatch.api.request import Request
from aobatch.engine.scheduler import weight

DEATHS_BEFORE_ISOLATION = 2
"""So many workers may die while they have a request before it gets one of its own."""


class Work:
    """Gives each request to whoever asks, and again if it comes back unanswered."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._source: Iterator[Request] = iter(requests)
        self._returned: deque[Request] = deque()
        self._deaths: dict[str, list[str]] = {}
        """The nodes on which workers died that had a request."""
        self._num_out = 0
        self.num_returned = 0
        """Requests that came back, over the whole run."""
        self.suspects: list[Request] = []
        """Requests that no worker gets beside others any more."""
        self.is_exhausted = False
        """Whether the source has no more."""

    @property
    def is_handed_out(self) -> bool:
        """Whether nobody can get any more at the moment."""
        return self.is_exhausted and not self._returned

    @property
    def is_done(self) -> bool:
        """Whether all requests are answered or suspect."""
        return self.is_handed_out and not self._num_out

    def take(self, room: int) -> list[Request]:
        """Give the next requests, long prompts counting as several; none only if none are left."""
        taken: list[Request] = []
        while room > 0:
            request = self._next()
            if request is None:
                break
            taken.append(request)
            room -= weight(request)
        self._num_out += len(taken)
        return taken

    def put_back(self, requests: Iterable[Request]) -> None:
        """Take requests back that nobody has begun, or that were not at fault."""
        before = len(self._returned)
        self._returned.extend(requests)
        self._num_out -= len(self._returned) - before
        self.num_returned += len(self._returned) - before

    def note_death(self, requests: Iterable[Request], node: str, alive: Set[str]) -> None:
        """Take back what a worker had when it died; some of that may become suspect.

        Deaths of nodes that are gone as a whole do not count.
        """
        left = []
        for request in requests:
            nodes = [n for n in self._deaths.get(request.key, ()) if n in alive]
            nodes += [node] if node in alive else []
            self._deaths[request.key] = nodes
            if len(nodes) >= DEATHS_BEFORE_ISOLATION:
                self.suspect([request])
            else:
                left.append(request)
        self.put_back(left)

    def suspect(self, requests: Sequence[Request]) -> None:
        """Take back requests of which one is at fault."""
        self.suspects += requests
        self._num_out -= len(requests)

    def end(self, key: str) -> None:
        """Hear that a request is answered."""
        self._num_out -= 1
        self._deaths.pop(key, None)

    def _next(self) -> Request | None:
        if self._returned:
            return self._returned.popleft()
        if self.is_exhausted:
            return None
        request = next(self._source, None)
        self.is_exhausted = request is None
        return request
