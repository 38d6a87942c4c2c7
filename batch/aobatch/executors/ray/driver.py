"""Requests computed by a pool of workers, suspects among them by one of their own."""

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, replace

import msgspec

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.config import EngineStatistics
from aobatch.engine.scheduler import weight
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta, Listener
from aobatch.errors import BusyError, JobError, ModelError, RequestError
from aobatch.executors import Statistics, WorkerStatistics
from aobatch.executors.ray.pool import WATCH_SECONDS, Event, Member, Pool
from aobatch.executors.ray.worker import (
    Failure,
    Missing,
    Order,
    Outcome,
    Piece,
    Ready,
    decode_reply,
    first_line,
    package_version,
    result_of,
)

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


SILENCE_SECONDS = 60.0
"""A worker that says nothing for so long is taken to be lost."""
EARLY_SECONDS = 30.0
"""How long workers that are there wait for the others before they take more than they compute."""


@dataclass(frozen=True, slots=True)
class Rules:
    """How a round goes about it."""

    num_workers: int
    num_slots: int
    """Sequences that a worker decodes together."""
    capacity: int
    """Requests that a worker has at most."""
    warn: Callable[[str], None]
    silence_seconds: float = SILENCE_SECONDS


class Watch:
    """Looks at the workers of a pool once a second."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self.is_early = rules.num_workers > 1
        """Whether workers are still awaited."""
        self._pool = pool
        self._rules = rules
        self._started = self._looked = time.monotonic()

    def silent_members(self) -> list[Member]:
        """Give the workers that were silent for too long, now and when they were last looked at."""
        now = time.monotonic()
        if now - self._looked < WATCH_SECONDS:
            return []
        self._looked = now
        if self.is_early:
            self._look_for_missing(now - self._started)
        lost = []
        for member in self._pool.members:
            is_late = member.is_busy and now - member.heard > self._rules.silence_seconds
            # Twice: after a pause of the driver itself, their answers are on the way.
            if is_late and member.is_late:
                lost.append(member)
            member.is_late = is_late
        return lost

    def _look_for_missing(self, seconds: float) -> None:
        num_ready = sum(member.is_ready for member in self._pool.members)
        num_missing = self._rules.num_workers - num_ready
        self.is_early = num_missing > 0 and seconds < EARLY_SECONDS
        if num_missing > 0 and not self.is_early:
            self._rules.warn(
                f"{num_missing:,} of {self._rules.num_workers:,} workers are not there after "
                f"{EARLY_SECONDS:.0f} seconds; they begin when nodes with enough free CPUs come"
            )


CHUNK = 64
"""Requests that a worker is given at once; more if it has room for very many."""
PATIENCE_SECONDS = 1.0
"""How long a worker waits for its first result until it says that there is none."""
INTERVAL_SECONDS = 0.05
"""How long a worker gathers results; with many workers longer, for the driver's sake."""
MAX_FRUITLESS = 8
"""So many workers may be lost in a row without a result between them."""


class Round:
    """Workers compute what a Work gives; those that are lost are replaced.

    A trial ends with the first worker that is lost by its requests' fault, and keeps why.
    """

    def __init__(
        self,
        pool: Pool,
        work: Work,
        streams: Streams,
        rules: Rules,
        *,
        is_trial: bool = False,
    ) -> None:
        self.verdict: Failure | None = None
        """Why a trial ended early."""
        self._pool = pool
        self._work = work
        self._streams = streams
        self._rules = rules
        self._is_trial = is_trial
        self._idle: list[Member] = []
        self._num_fruitless = 0
        self._watch = Watch(pool, rules)

    def results(self) -> Iterator[Result]:
        """Yield results as they come; suspects are left in the work."""
        for _ in range(self._rules.num_workers - len(self._pool.members)):
            self._pool.start()
        for member in [*self._pool.members]:
            if member.is_ready and not member.is_busy:
                self._hand_out(member)
        while not self._work.is_done and self.verdict is None:
            event = self._pool.next_event()
            if event is not None:
                yield from self._hear(event)
            self._look_around()

    def _hear(self, event: Event) -> Iterator[Result]:
        member = event.member
        if event.call == "exchange":
            member.is_busy = False
        if event.error is not None:
            self._lose(member, f"it has died ({first_line(event.error)})")
        elif event.call == "open":
            self._take_on(member, event.value)
        elif event.call == "give_back":
            self._put_back([r for key in event.value if (r := member.release(key))])
        else:
            yield from self._take_in(member, event.value)

    def _take_on(self, member: Member, answer: Ready | Missing | JobError) -> None:
        if isinstance(answer, JobError):
            raise answer
        if isinstance(answer, Missing):
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

    def _take_in(self, member: Member, data: bytes) -> Iterator[Result]:
        try:
            reply = decode_reply(data)
        except msgspec.MsgspecError as error:
            self._lose(member, f"it says what is no reply ({error})")
            return
        member.statistics = reply.statistics
        for item in reply.items:
            if not isinstance(item, Outcome):
                if request := member.assigned.get(item.key):
                    self._streams.add(request, item)
            elif request := member.release(item.key):
                self._num_fruitless = 0
                self._work.end(item.key)
                self._streams.end(item.key)
                yield result_of(request, item)
            else:
                self._pool.tally.duplicates_dropped += 1
        if reply.failure is not None:
            self._fail(member, reply.failure)
        else:
            self._hand_out(member)

    def _hand_out(self, member: Member) -> None:
        """Give a worker what it has room for, or what another one has too much of."""
        rules = self._rules
        # Nobody is to have all requests of a small job before the others are there.
        room = (rules.num_slots if self._watch.is_early else rules.capacity) - member.load
        chunk = max(CHUNK, rules.capacity // 4)
        requests = self._work.take(min(room, chunk))
        if requests or member.assigned:
            if room > chunk and not self._work.is_handed_out:
                order = Order(requests, 0.0, 0.0)
            else:
                interval = INTERVAL_SECONDS + rules.num_workers / 2000
                order = Order(requests, PATIENCE_SECONDS, interval)
            self._pool.exchange(member, order)
        else:
            self._idle.append(member)
            self._even_out()

    def _even_out(self) -> None:
        """Ask the worker that has most for half of what it cannot have begun."""
        fullest = max(self._pool.members, key=lambda member: member.load)
        if (excess := fullest.load - self._rules.num_slots) > 1:
            self._pool.take_back(fullest, excess // 2)

    def _put_back(self, requests: list[Request]) -> None:
        """Let others have requests that are still to be computed."""
        if not requests:
            return
        self._pool.tally.requests_returned += len(requests)
        self._work.put_back(requests)
        self._call_idle()

    def _call_idle(self) -> None:
        idle, self._idle = self._idle, []
        for member in idle:
            if member in self._pool.members:
                self._hand_out(member)

    def _fail(self, member: Member, failure: Failure) -> None:
        """Replace a worker whose engine failed; one of its requests is at fault."""
        suspects = self._drop(member)
        if self._is_trial:
            self.verdict = failure
            self._work.suspect(suspects)
            return
        self._rules.warn(
            f"the engine of worker {member.number} failed ({failure.text}); the {len(suspects):,} "
            "requests that it had are computed by themselves"
        )
        self._work.suspect(suspects)
        self._replace()

    def _lose(self, member: Member, reason: str) -> None:
        """Replace a worker that is lost; unless its node is, a request may be at fault."""
        requests, nodes = self._drop(member), self._pool.nodes()
        self._rules.warn(
            f"worker {member.number} is lost, {reason}; the {len(requests):,} requests that it had "
            "are computed again"
        )
        if self._is_trial and member.node in nodes:
            self.verdict = Failure(reason, lacks_memory=False)
            self._work.suspect(requests)
            return
        self._pool.tally.requests_returned += len(requests)
        self._work.note_death(requests, member.node, nodes)
        self._call_idle()
        self._replace()

    def _drop(self, member: Member) -> list[Request]:
        self._pool.tally.workers_lost += 1
        self._pool.drop(member)
        requests = member.release_all()
        for request in requests:
            self._streams.begin_anew(request.key)
        return requests

    def _replace(self) -> None:
        self._num_fruitless += 1
        if self._num_fruitless > MAX_FRUITLESS + 2 * self._rules.num_workers:
            message = (
                f"{self._num_fruitless} workers were lost without a result between them; look at "
                "the memory of their nodes and at Ray's logs, and run again"
            )
            raise BusyError(message)
        self._pool.start()

    def _look_around(self) -> None:
        for member in self._watch.silent_members():
            self._lose(member, f"it says nothing for {self._rules.silence_seconds:g} seconds")


NUM_NAMED = 64
"""Workers that have figures of their own in the statistics."""


class RayExecutor:
    """One model, open in all workers of a pool."""

    def __init__(self, pool: Pool, rules: Rules) -> None:
        self._pool = pool
        self._rules = rules

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds of all engines, and of workers."""
        engine, workers = EngineStatistics(), {}
        now = time.monotonic()
        for member in (*self._pool.members, *self._pool.ended):
            seen = member.statistics
            engine.add(seen)
            if member.is_ready and member.number < NUM_NAMED:
                seconds = (member.ended or now) - member.ready
                workers[member.number] = WorkerStatistics(seen.sampled_tokens, seconds)
        return Statistics(engine=engine, pool=self._pool.tally, workers=workers)

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> Generator[Result, None, None]:
        """Compute every request; results come as workers send them."""
        streams, work = Streams(listener), Work(requests)
        with self._pool.cluster_errors():
            yield from Round(self._pool, work, streams, self._rules).results()
            if work.suspects:
                yield from self._isolate(work.suspects, streams)

    def _isolate(self, suspects: list[Request], streams: Streams) -> Iterator[Result]:
        """Compute suspects by a fresh worker for each group; a group that it dies of is halved."""
        self._pool.close()  # what they have taken of their nodes is needed
        size = self._rules.capacity
        groups = deque(suspects[i : i + size] for i in range(0, len(suspects), size))
        rules = replace(self._rules, num_workers=1, capacity=size)
        while groups:
            group, answered = groups.popleft(), set[str]()
            trial = Round(self._pool, Work(group), streams, rules, is_trial=True)
            for result in trial.results():
                answered.add(result.request.key)
                yield result
            left = [request for request in group if request.key not in answered]
            if trial.verdict and len(group) == 1 and left:
                yield Result(left[0], (), Usage(0, 0, 0), _fault(trial.verdict), 0.0)
            elif left:
                middle = (len(left) + 1) // 2
                groups.extendleft(half for half in (left[middle:], left[:middle]) if half)


def _fault(verdict: Failure) -> RequestError:
    return errors.insufficient_memory() if verdict.lacks_memory else errors.engine_crash()
