"""Pieces of streams, each passed on once though its request may be computed twice."""

from collections import Counter

from aobatch.api.request import Request
from aobatch.engine.streaming import Delta, Listener
from aobatch.executors.ray.messages import Piece


class Streams:
    """Passes pieces on; a request that is begun anew sends the same ones again."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._sent: dict[str, Counter[int]] = {}
        self._seen: dict[str, Counter[int]] = {}

    def add(self, request: Request, piece: Piece) -> None:
        """Pass a piece on, unless that has been done."""
        index = piece.choice.index
        seen = self._seen.setdefault(piece.key, Counter())
        sent = self._sent.setdefault(piece.key, Counter())
        seen[index] += 1
        if seen[index] > sent[index]:
            sent[index] += 1
            if self._listener:
                self._listener(Delta(request, piece.choice))

    def begin_anew(self, key: str) -> None:
        """Hear that a request is computed once more."""
        self._seen.pop(key, None)

    def end(self, key: str) -> None:
        """Hear that a request is answered."""
        self._seen.pop(key, None)
        self._sent.pop(key, None)
