"""Who is computed next: a bounded window of waiting prompts, and the slots there is memory for."""

from collections import deque
from collections.abc import Callable, Iterator

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup

CAPACITY_STEP = 64
"""Slots hold a multiple of this many tokens, so that a chunk padded by one always fits."""


class Scheduler:
    """Reads ahead, and starts sequences when enough slots are free for a good prefill."""

    def __init__(
        self,
        requests: Iterator[Request],
        prepare: Callable[[Request], RequestState],
        config: EngineConfig,
        kv_bytes_per_token: int,
    ) -> None:
        self._requests = requests
        self._prepare = prepare
        self._config = config
        self._kv_bytes_per_token = kv_bytes_per_token
        self._waiting: deque[SequenceGroup] = deque()
        self._has_read_all = False

    @property
    def is_done(self) -> bool:
        """Whether every request was read, and none waits."""
        return self._has_read_all and not self._waiting

    def fill(self) -> list[RequestState]:
        """Read ahead up to the window; give the requests that need no computation."""
        finished: list[RequestState] = []
        while len(self._waiting) + len(finished) < self._config.lookahead:
            request = next(self._requests, None)
            if request is None:
                self._has_read_all = True
                break
            state = self._prepare(request)
            self._waiting.extend(group for group in state.groups if _needs_model(group))
            _skip_empty(state)
            if not state.num_open:
                finished.append(state)
        return finished

    def take(self, num_active: int, capacity: int) -> list[Sequence]:
        """Start the sequences that fit beside num_active ones in slots of `capacity` tokens.

        A prefill costs the same for one short prompt as for several, so while others decode, few
        free slots wait for more; longer requests may raise the capacity.
        """
        taken: list[Sequence] = []
        enough = max(1, self._config.max_num_seqs // 8)
        while self._waiting:
            group = self._waiting[0]
            capacity = max(capacity, capacity_for(group))
            room = self.slots_for(capacity) - num_active - len(taken)
            pending = group.num_sequences - len(group.sequences)
            if room < 1:
                break
            taken += [group.start_sequence() for _ in range(min(room, pending))]
            if pending > room:
                break
            self._waiting.popleft()
        if num_active and self._waiting and len(taken) < enough:
            self._put_back(taken)
            return []
        return taken

    def slots_for(self, capacity: int) -> int:
        """Say how many slots of a capacity the cache has room for."""
        affordable = self._config.kv_cache_bytes // (capacity * self._kv_bytes_per_token)
        return max(1, min(self._config.max_num_seqs, affordable))

    def _put_back(self, taken: list[Sequence]) -> None:
        for sequence in reversed(taken):
            group = sequence.group
            group.sequences.remove(sequence)
            if not self._waiting or self._waiting[0] is not group:
                self._waiting.appendleft(group)


def capacity_for(group: SequenceGroup) -> int:
    """Give the capacity of a slot in which the group's sequences fit."""
    return -(-group.num_tokens_at_most // CAPACITY_STEP) * CAPACITY_STEP


def _needs_model(group: SequenceGroup) -> bool:
    return group.max_tokens > 0 or group.scores_prompt


def _skip_empty(state: RequestState) -> None:
    """Finish the sequences that ask for no token and no score."""
    for group in state.groups:
        if not _needs_model(group):
            for _ in range(group.num_sequences):
                group.start_sequence().finish_reason = "length"
            state.num_open -= group.num_sequences
