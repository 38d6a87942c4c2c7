"""Who is computed next: what waits, shared out among lanes as their slots become free."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from threading import Condition

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.engine.prefill import family
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup
from aobatch.models.spec import CAPACITY_STEP

CHARACTERS_A_PROMPT = 2**16
"""A longer prompt counts as several, so that what waits is bounded in memory as well."""
AWAITED_IN_A_ROW = 8
"""So many prompts of awaited requests go ahead of one that nobody waits for."""


@dataclass(slots=True)
class Window:
    """Reads requests as they are needed."""

    requests: Iterator[Request | None]
    """A None among them says that there are no more for now."""
    prepare: Callable[[Request], RequestState | None]
    """Gives None for a request that needs no state of its own."""
    num_prompts: int
    has_read_all: bool = False
    is_dry: bool = False
    """Whether the last block ended because there were no more for now."""

    def read(self) -> list[RequestState]:
        """Read the next block, about num_prompts prompts."""
        states: list[RequestState] = []
        num_read = 0
        self.is_dry = False
        while num_read < self.num_prompts:
            try:
                request = next(self.requests)
            except StopIteration:
                self.has_read_all = True
                break
            if request is None:
                self.is_dry = True
                break
            num_read += weight(request)
            if state := self.prepare(request):
                states.append(state)
        return states


def weight(request: Request) -> int:
    """Count the prompts of a request, long ones by their length."""
    lengths = map(len, request.body.prompts)
    return sum(1 + length // CHARACTERS_A_PROMPT for length in lengths)


def ordered(groups: list[SequenceGroup]) -> list[SequenceGroup]:
    """Put prompts with a common beginning side by side, and the longest work first.

    Long sequences that start last would decode alone in the end.
    """
    families: dict[bytes | int, list[SequenceGroup]] = {}
    for position, group in enumerate(groups):
        shared = family(group.prompt_token_ids)
        families.setdefault(position if shared is None else shared, []).append(group)
    for members in families.values():
        if len(members) > 1:
            members.sort(key=lambda group: group.prompt_token_ids.astype(">u4").tobytes())
    by_length = sorted(families.values(), key=lambda m: -max(g.num_tokens_at_most for g in m))
    return [group for members in by_length for group in members]


class Scheduler:
    """Starts waiting sequences in the lane that asks; any thread may call it.

    Every lane gets an even share of what is left, so that none ends long before the others.
    Requests that somebody waits for go first, but for every ninth prompt.
    """

    def __init__(
        self, config: EngineConfig, kv_bytes_per_token: int, on_low: Callable[[], None]
    ) -> None:
        """`on_low` is called, by any thread, whenever less than half of the look-ahead waits."""
        self._low = max(1, config.lookahead // 2)
        self._bytes_per_token = kv_bytes_per_token * lane_count(config)
        self._kv_cache_bytes = config.kv_cache_bytes
        self._on_low = on_low
        self._num_slots = slot_counts(config)
        self._awaited_share = config.awaited_slots / config.max_num_seqs
        self._num_active = [0] * len(self._num_slots)
        self._awaited: deque[SequenceGroup] = deque()
        self._waiting: deque[SequenceGroup] = deque()
        self._num_in_a_row = 0
        self._num_pending = 0
        self._is_closed = False
        self._changed = Condition()

    @property
    def is_low(self) -> bool:
        """Whether more prompts should be read."""
        return len(self._waiting) < self._low

    @property
    def num_waiting(self) -> int:
        """Count the sequences that wait for a slot."""
        return self._num_pending

    @property
    def num_active(self) -> int:
        """Count the sequences in slots, as lanes last told."""
        return sum(self._num_active)

    def add(self, groups: Iterable[SequenceGroup]) -> None:
        """Let groups wait behind the others of their kind."""
        with self._changed:
            for group in groups:
                self._line_of(group).append(group)
                self._num_pending += group.num_sequences
            self._changed.notify_all()

    def discard(self, state: RequestState) -> int:
        """Start no more sequences of a request; give how many of them waited."""
        with self._changed:
            groups = [group for group in state.groups_to_compute if not group.is_started]
            for group in groups:
                self._line_of(group).remove(group)
            count = sum(group.num_sequences - len(group.sequences) for group in groups)
            self._num_pending -= count
        return count

    def close(self) -> None:
        """Let all lanes end, whatever they are at."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def take(self, lane: int, num_active: int, capacity: int) -> list[Sequence] | None:
        """Start sequences beside num_active ones in slots of `capacity` tokens; None if closed.

        Waits for work if the lane has none. A prefill costs the same for one short prompt as for
        several, so while sequences are active, few free slots wait for more.
        """
        with self._changed:
            self._num_active[lane] = num_active
            while not num_active and not self._num_pending and not self._is_closed:
                self._changed.wait()
            if self._is_closed:
                return None
            taken = self._take(lane, capacity)
            is_low = self.is_low
        if taken and is_low:
            self._on_low()
        return taken

    def slots_for(self, lane: int, capacity: int) -> int:
        """Say how many slots of a capacity the lane's part of the cache has room for."""
        affordable = self._kv_cache_bytes // (capacity * self._bytes_per_token)
        return max(1, min(self._num_slots[lane], affordable))

    def _take(self, lane: int, capacity: int) -> list[Sequence]:
        num_active = self._num_active[lane]
        # What each lane has when all that is left is shared out.
        share = -(-(self._num_pending + sum(self._num_active)) // len(self._num_active))
        plan, total, in_a_row = [], 0, self._num_in_a_row
        awaited, others = self._awaited.copy(), self._waiting.copy()
        # A group is shared out as a whole, since each lane would read its prompt anew.
        while (awaited or others) and total < share - num_active:
            is_other = bool(others) and (in_a_row >= AWAITED_IN_A_ROW or not awaited)
            group = (others if is_other else awaited).popleft()
            needed = max(capacity, capacity_for(group.num_tokens_at_most))
            room = self._room(lane, needed, num_active + total, is_awaited=not is_other)
            if room < 1 and is_other:
                others.clear()
                continue
            if room < 1:
                break
            pending = group.num_sequences - len(group.sequences)
            plan.append((group, min(room, pending)))
            total += min(room, pending)
            capacity, in_a_row = needed, 0 if is_other else in_a_row + 1
            if pending > room:
                break
        is_urgent = len(awaited) < len(self._awaited)
        few = 1 if is_urgent else max(1, self._num_slots[lane] // 8)
        if num_active and self._num_pending > total < few:
            return []
        self._num_active[lane] += total
        self._num_in_a_row = in_a_row
        return [self._start(group) for group, count in plan for _ in range(count)]

    def _room(self, lane: int, capacity: int, num_taken: int, *, is_awaited: bool) -> int:
        """Count the free slots for a request; a lane that has nothing to do takes any."""
        slots = self.slots_for(lane, capacity)
        kept = 0 if is_awaited or not num_taken else int(slots * self._awaited_share)
        return slots - kept - num_taken

    def _line_of(self, group: SequenceGroup) -> deque[SequenceGroup]:
        return self._awaited if group.state.request.is_awaited else self._waiting

    def _start(self, group: SequenceGroup) -> Sequence:
        sequence = group.start_sequence()
        self._num_pending -= 1
        if group.is_started:
            self._line_of(group).popleft()
        return sequence


def lane_count(config: EngineConfig) -> int:
    """Say how many lanes there are: as configured, but none without a slot."""
    return max(1, min(config.num_lanes, config.max_num_seqs))


def slot_counts(config: EngineConfig) -> list[int]:
    """Share max_num_seqs out among the lanes."""
    lanes = lane_count(config)
    return [(config.max_num_seqs + lane) // lanes for lane in range(lanes)]


def capacity_for(num_tokens: int) -> int:
    """Round a number of tokens up to the capacity of a slot."""
    return -(-num_tokens // CAPACITY_STEP) * CAPACITY_STEP
