"""A round: workers compute requests until each is answered."""

import time
from collections.abc import Iterator

import msgspec

from aobatch.api.request import Request
from aobatch.engine.sequence import Result
from aobatch.errors import BusyError, JobError, ModelError
from aobatch.executors.ray.messages import (
    Failure,
    Missing,
    Order,
    Outcome,
    Ready,
    decode_reply,
    first_line,
    result_of,
)
from aobatch.executors.ray.pool import Event, Member, Pool
from aobatch.executors.ray.streams import Streams
from aobatch.executors.ray.watch import Rules, Watch
from aobatch.executors.ray.work import Work
from aobatch.executors.ray.worker import package_version

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
