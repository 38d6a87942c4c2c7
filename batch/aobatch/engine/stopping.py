"""Stop strings, looked for in generated text as it grows."""

from collections.abc import Sequence

from aobatch.engine.detokenizer import Detokenizer


class StopWatcher:
    """Finds the first stop string in a completion; it may begin and end inside tokens."""

    def __init__(self, stop: Sequence[str], min_tokens: int = 0) -> None:
        self._stop = stop
        self._min_tokens = min_tokens
        self._reach = max(map(len, stop)) - 1
        self._detokenizer = Detokenizer()
        self._num_tokens = 0
        self.text = ""
        """What was generated so far."""
        self._searched_from = 0
        self.cut: int | None = None
        """Where the text ends, in code points, once a stop was found."""

    def push(self, token: bytes) -> bool:
        """Take in a token; say whether the text ends in it."""
        self._num_tokens += 1
        start = max(self._searched_from, len(self.text) - self._reach)
        self.text += self._detokenizer.push(token)
        if self._num_tokens < self._min_tokens:
            # Text from before the minimum cannot stop it, not even in part.
            self._searched_from = len(self.text)
            return False
        found = [self.text.find(string, start) for string in self._stop]
        self.cut = min((place for place in found if place >= 0), default=None)
        return self.cut is not None

    def num_held_back(self) -> int:
        """Count the last code points that may be the beginning of a stop."""
        tail = self.text[max(self._searched_from, len(self.text) - self._reach) :]
        starts = (i for i in range(len(tail)) if any(s.startswith(tail[i:]) for s in self._stop))
        return len(tail) - next(starts, len(tail))
