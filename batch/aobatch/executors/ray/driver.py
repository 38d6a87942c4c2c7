"""The driver of a job: keeps workers full, retries what a lost one had, finds the culprits."""

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Set
from dataclasses import dataclass, replace

import msgspec

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.engine.config import EngineStatistics
from aobatch.engine.scheduler import weight
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta, Listener
from aobatch.errors import BusyError, JobError, ModelError
from aobatch.executors import Statistics, WorkerStatistics, package_version
from aobatch.executors.isolated import find_culprits
from aobatch.executors.ray.cluster import first_line
from aobatch.executors.ray.pool import CHECK_SECONDS, Event, Member, Pool
from aobatch.executors.ray.worker import (
    Failure,
    Order,
    Outcome,
    Piece,
    Ready,
    decode_reply,
)

CHUNK = 64
"""Requests that a worker is given at once; more if it has room for very many."""
DEATHS_BEFORE_ISOLATION = 2
"""So many workers may die while they have a request before it gets one of its own."""
EARLY_SECONDS = 30.0
"""How long workers that are there wait for the others before they take more than they compute."""
INTERVAL_SECONDS = 0.05
"""How long a worker gathers results; with many workers longer, for the driver's sake."""
MAX_FRUITLESS = 8
"""So many workers may be lost in a row without a result between them."""
NUM_NAMED = 64
"""Workers that have figures of their own in the statistics."""
PATIENCE_SECONDS = 1.0
"""How long a worker waits for its first result until it says that there is none."""
SILENCE_SECONDS = 60.0
"""A worker that says nothing for so long is taken to be lost."""


@dataclass(frozen=True, slots=True)
class DriverConfig:
    """How many workers there are, and what they are given."""

    num_workers: int
    num_slots: int
    """Sequences that a worker decodes together."""
    capacity: int
    """Requests that a worker has at most."""
    warn: Callable[[str], None]


class RayExecutor:
    """One model, open in all workers of a pool."""

    def __init__(self, pool: Pool, config: DriverConfig) -> None:
        self._pool = pool
        self._config = config

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds of all engines, and of workers."""
        engine, workers = EngineStatistics(), {}
        now = time.monotonic()
        for member in (*self._pool.members, *self._pool.ended):
            seen = member.statistics
            engine.add(seen)
            if member.ready and member.number < NUM_NAMED:
                seconds = (member.ended or now) - member.ready
                workers[member.number] = WorkerStatistics(seen.sampled_tokens, seconds)
        return Statistics(engine=engine, pool=self._pool.statistics, workers=workers)

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> Generator[Result, None, None]:
        """Compute every request; results come as workers send them."""
        streams, backlog = Streams(listener), Backlog(requests)
        with self._pool.cluster_errors():
            yield from Dispatcher(self._pool, backlog, streams, self._config).results()
            if backlog.suspects:
                yield from self._isolate(backlog.suspects, streams)

    def _isolate(self, suspects: list[Request], streams: "Streams") -> Iterator[Result]:
        """Compute suspects in groups, with one worker that is replaced whenever it is lost."""
        self._pool.close()  # what the others have taken of their nodes is needed
        config, size = replace(self._config, num_workers=1), self._config.capacity
        groups = (suspects[i : i + size] for i in range(0, len(suspects), size))

        def attempt(group: list[Request]) -> Generator[Result, None, None]:
            trial = Dispatcher(self._pool, Backlog(group), streams, config, is_trial=True)
            return trial.results()

        yield from find_culprits(groups, attempt)


class Backlog:
    """Requests that are to be computed; each is handed out once, and again if it comes back."""

    def __init__(self, requests: Iterable[Request]) -> None:
        self._source = iter(requests)
        self._returned: deque[Request] = deque()
        self._deaths: dict[str, list[str]] = {}
        """The nodes on which workers died that had a request."""
        self._num_in_flight = 0
        self._is_exhausted = False
        """Whether the source has no more."""
        self.suspects: list[Request] = []
        """Requests that no worker gets beside others any more."""

    @property
    def is_empty(self) -> bool:
        """Whether nobody can get any more at the moment."""
        return self._is_exhausted and not self._returned

    @property
    def is_done(self) -> bool:
        """Whether all requests are answered or suspect."""
        return self.is_empty and not self._num_in_flight

    def take(self, room: int) -> list[Request]:
        """Hand out the next requests, long ones counting as several; none if none are left."""
        taken: list[Request] = []
        while room > 0 and (request := self._next()) is not None:
            taken.append(request)
            room -= weight(request)
        self._num_in_flight += len(taken)
        return taken

    def put_back(self, requests: list[Request]) -> None:
        """Take requests back that nobody has begun, or that were not at fault."""
        self._returned.extend(requests)
        self._num_in_flight -= len(requests)

    def note_death(self, requests: list[Request], node: str, alive: Set[str]) -> None:
        """Take back what a worker had when it died; some of that may become suspect.

        Deaths of nodes that are gone as a whole do not count.
        """
        for request in requests:
            nodes = [n for n in (*self._deaths.get(request.key, ()), node) if n in alive]
            self._deaths[request.key] = nodes
            take_back = self.suspect if len(nodes) >= DEATHS_BEFORE_ISOLATION else self.put_back
            take_back([request])

    def suspect(self, requests: list[Request]) -> None:
        """Take back requests of which one is at fault."""
        self.suspects += requests
        self._num_in_flight -= len(requests)

    def end(self, key: str) -> None:
        """Note that a request is answered."""
        self._num_in_flight -= 1
        self._deaths.pop(key, None)

    def _next(self) -> Request | None:
        if self._returned:
            return self._returned.popleft()
        request = None if self._is_exhausted else next(self._source, None)
        self._is_exhausted = request is None
        return request


class Streams:
    """Passes pieces on; a request that is begun anew sends the same ones again."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener
        self._sent: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self._seen: defaultdict[str, Counter[int]] = defaultdict(Counter)

    def add(self, request: Request, piece: Piece) -> None:
        """Pass a piece on, unless that has been done."""
        index, sent, seen = piece.choice.index, self._sent[piece.key], self._seen[piece.key]
        seen[index] += 1
        if seen[index] > sent[index]:
            sent[index] += 1
            if self._listener:
                self._listener(Delta(request, piece.choice))

    def begin_anew(self, key: str) -> None:
        """Note that a request is computed once more."""
        self._seen.pop(key, None)

    def end(self, key: str) -> None:
        """Note that a request is answered."""
        self._seen.pop(key, None)
        self._sent.pop(key, None)


class Dispatcher:
    """Lets workers compute a backlog; those that are lost are replaced.

    A trial ends with the first worker that is lost by its requests' fault, as a RequestError.
    """

    def __init__(
        self,
        pool: Pool,
        backlog: Backlog,
        streams: Streams,
        config: DriverConfig,
        *,
        is_trial: bool = False,
    ) -> None:
        self._pool = pool
        self._backlog = backlog
        self._streams = streams
        self._config = config
        self._is_trial = is_trial
        self._num_fruitless = 0
        self._started = self._checked = time.monotonic()
        self._is_early = config.num_workers > 1
        """Whether workers are still awaited."""

    def results(self) -> Generator[Result, None, None]:
        """Yield results as they come; suspects are left in the backlog."""
        for _ in range(self._config.num_workers - len(self._pool.members)):
            self._pool.start()
        self._call_idle()
        while not self._backlog.is_done:
            if event := self._pool.next_event():
                yield from self._handle(event)
            self._check_health()

    def _handle(self, event: Event) -> Iterator[Result]:
        member = event.member
        if event.call == "exchange":
            member.is_busy = False
        if event.error is not None:
            self._lose(member, f"it has died ({first_line(event.error)})")
        elif event.call == "open":
            self._admit(member, event.value)
        elif event.call == "exchange":
            yield from self._receive(member, event.value)
        elif requests := [r for key in event.value if (r := member.release(key))]:
            self._pool.statistics.requests_returned += len(requests)
            self._backlog.put_back(requests)
            self._call_idle()

    def _admit(self, member: Member, answer: Ready | JobError | None) -> None:
        if isinstance(answer, JobError):
            raise answer
        if answer is None:
            self._pool.send_model(member)
            return
        if answer.version != package_version():
            message = (
                f"a worker has aobatch {answer.version} and the driver {package_version()}; "
                "install the same version everywhere"
            )
            raise ModelError(message)
        member.node, member.process = answer.node, answer.process
        member.ready = time.monotonic()
        self._hand_out(member)

    def _receive(self, member: Member, data: bytes) -> Iterator[Result]:
        try:
            reply = decode_reply(data)
        except msgspec.MsgspecError as error:
            self._lose(member, f"it says what is no reply ({error})")
            return
        member.statistics = reply.statistics
        for item in reply.items:
            if isinstance(item, Failure):
                self._fail(member, item)
                return
            if isinstance(item, Piece):
                if request := member.assigned.get(item.key):
                    self._streams.add(request, item)
            elif request := member.release(item.key):
                yield self._finish(request, item)
            else:
                self._pool.statistics.duplicates_dropped += 1
        self._hand_out(member)

    def _finish(self, request: Request, outcome: Outcome) -> Result:
        self._num_fruitless = 0
        self._backlog.end(request.key)
        self._streams.end(request.key)
        return Result(request, outcome.choices, outcome.usage, outcome.error, *outcome.times)

    def _hand_out(self, member: Member) -> None:
        """Give a worker what it has room for, or what another one has too much of."""
        config = self._config
        # Nobody is to have all requests of a small job before the others are there.
        room = (config.num_slots if self._is_early else config.capacity) - member.load
        chunk = max(CHUNK, config.capacity // 4)
        requests = self._backlog.take(min(room, chunk))
        if not requests and not member.assigned:
            fullest = max(self._pool.members, key=lambda member: member.load)
            # What it has beyond its slots, it cannot have begun.
            if (excess := fullest.load - config.num_slots) > 1:
                self._pool.take_back(fullest, excess // 2)
        elif room > chunk and not self._backlog.is_empty:
            self._pool.exchange(member, Order(requests, 0.0, 0.0))
        else:
            interval = INTERVAL_SECONDS + config.num_workers / 2000
            self._pool.exchange(member, Order(requests, PATIENCE_SECONDS, interval))

    def _call_idle(self) -> None:
        for member in self._pool.members:
            if member.ready and not member.is_busy:
                self._hand_out(member)

    def _fail(self, member: Member, failure: Failure) -> None:
        """Replace a worker whose engine failed; one of its requests is at fault."""
        suspects = self._drop(member)
        if self._is_trial:
            raise errors.insufficient_memory() if failure.lacks_memory else errors.engine_crash()
        self._config.warn(
            f"the engine of worker {member.number} failed ({failure.text}); the {len(suspects):,} "
            "requests that it had are computed by themselves"
        )
        self._backlog.suspect(suspects)
        self._replace()

    def _lose(self, member: Member, reason: str) -> None:
        """Replace a worker that is lost; unless its node is, a request may be at fault."""
        requests, nodes = self._drop(member), self._pool.nodes()
        self._config.warn(
            f"worker {member.number} is lost, {reason}; the {len(requests):,} requests that it had "
            "are computed again"
        )
        if self._is_trial and member.node in nodes:
            raise errors.engine_crash()
        self._pool.statistics.requests_returned += len(requests)
        self._backlog.note_death(requests, member.node, nodes)
        self._call_idle()
        self._replace()

    def _drop(self, member: Member) -> list[Request]:
        self._pool.statistics.workers_lost += 1
        self._pool.drop(member)
        requests = [*member.assigned.values()]
        for request in requests:
            member.release(request.key)
            self._streams.begin_anew(request.key)
        return requests

    def _replace(self) -> None:
        self._num_fruitless += 1
        if self._num_fruitless > MAX_FRUITLESS + 2 * self._config.num_workers:
            message = (
                f"{self._num_fruitless} workers were lost without a result between them; look at "
                "the memory of their nodes and at Ray's logs, and run again"
            )
            raise BusyError(message)
        self._pool.start()

    def _check_health(self) -> None:
        """Look once a second for workers that have not come, or say nothing any more."""
        now = time.monotonic()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        if self._is_early:
            self._look_for_missing(now - self._started)
        for member in self._pool.silent_members(SILENCE_SECONDS):
            self._lose(member, f"it says nothing for {SILENCE_SECONDS:g} seconds")

    def _look_for_missing(self, seconds: float) -> None:
        num_workers = self._config.num_workers
        num_missing = num_workers - sum(member.ready > 0 for member in self._pool.members)
        self._is_early = num_missing > 0 and seconds < EARLY_SECONDS
        if num_missing > 0 and not self._is_early:
            self._config.warn(
                f"{num_missing:,} of {num_workers:,} workers are not there after "
                f"{EARLY_SECONDS:.0f} seconds; they begin when nodes with enough free CPUs come"
            )
