"""The order of a stream whose choices are computed side by side."""

from collections import deque
from collections.abc import Iterator

from aobatch.api.response import Choice


class Turns:
    """Pieces of one request's choices in an order that follows from the pieces alone.

    Choices take turns, a piece each, and one that has ended is passed over: when each piece was
    computed hangs on other requests, and is not to be seen.
    """

    def __init__(self, num_choices: int) -> None:
        self._waiting = [deque[Choice]() for _ in range(num_choices)]
        self._open = list(range(num_choices))
        self._turn = 0

    def add(self, piece: Choice) -> Iterator[Choice]:
        """Take in a piece, and yield those whose turn has come."""
        self._waiting[piece.index].append(piece)
        while self._open and (waiting := self._waiting[self._open[self._turn]]):
            piece = waiting.popleft()
            if piece.finish_reason is None:
                self._turn += 1
            else:
                del self._open[self._turn]
            if self._turn == len(self._open):
                self._turn = 0
            yield piece
