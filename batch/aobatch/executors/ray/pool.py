"""The workers of a job, as the driver sees them: started, called, heard and ended."""

import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from types import ModuleType
from typing import Any, Literal

from aobatch.api.request import Request
from aobatch.engine.config import EngineStatistics
from aobatch.engine.scheduler import weight
from aobatch.errors import BusyError
from aobatch.executors import ModelIdentity, PoolStatistics
from aobatch.executors.ray.cluster import first_line
from aobatch.executors.ray.distribution import SentFile, send_model
from aobatch.executors.ray.worker import Opener, Order, Worker, encode

CHECK_SECONDS = 1.0
"""How long the driver waits for workers before it looks after their health."""
CALLS = 4
"""Of one worker side by side: an exchange, and whatever does not wait for its end."""


@dataclass(eq=False, slots=True)
class Member:
    """One worker of the pool."""

    number: int
    actor: Any
    heard: float
    """When it last said something, or was asked."""
    ready: float = 0.0
    """When it had its engine; 0 before."""
    ended: float = 0.0
    """When it was dropped; 0 before."""
    node: str = ""
    """Of Ray; empty until it has its engine."""
    process: int = 0
    assigned: dict[str, Request] = field(default_factory=dict)
    """The requests that it has and has not answered, by key."""
    load: int = 0
    """Their prompts, long ones counting as several."""
    statistics: EngineStatistics = field(default_factory=EngineStatistics)
    is_busy: bool = False
    """Whether an exchange is under way."""
    is_late: bool = False
    """Whether it was silent for too long when its health was last checked."""

    def release(self, key: str) -> Request | None:
        """Take away a request that it has no more; None if it had none of this key."""
        request = self.assigned.pop(key, None)
        self.load -= weight(request) if request else 0
        return request


@dataclass(frozen=True, slots=True)
class Event:
    """What became of a call of a worker."""

    member: Member
    call: Literal["open", "exchange", "give_back"]
    value: Any
    error: BaseException | None


class Pool:
    """Starts workers, calls them and hears what they say."""

    def __init__(
        self, ray: ModuleType, opener: Opener, model: ModelIdentity, num_cpus: float
    ) -> None:
        self._ray = ray
        self._opener = opener
        self._model = model
        self._options = {"num_cpus": num_cpus, "max_restarts": 0, "max_concurrency": CALLS}
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._files: list[SentFile] = []
        self.statistics = PoolStatistics()
        self.members: list[Member] = []
        self.ended: list[Member] = []

    def start(self) -> Member:
        """Start a further worker; an event tells when it is ready."""
        actor = self._ray.remote(Worker).options(**self._options).remote(self._opener, self._model)
        member = Member(self.statistics.workers_started, actor, time.monotonic())
        self.statistics.workers_started += 1
        self.members.append(member)
        self._call(member, "open")
        return member

    def send_model(self, member: Member) -> None:
        """Send a worker the files of its model, which its node keeps."""
        if not self._files:
            self._files = send_model(self._ray, self._model.path)
        self._call(member, "open", self._files)

    def exchange(self, member: Member, order: Order) -> None:
        """Give a worker requests; an event tells what it has done."""
        member.is_busy = True
        member.heard = time.monotonic()
        member.assigned |= {request.key: request for request in order.requests}
        member.load += sum(map(weight, order.requests))
        self._call(member, "exchange", encode(order))

    def take_back(self, member: Member, count: int) -> None:
        """Ask a worker for requests that it has not begun; an event tells which these are."""
        self._call(member, "give_back", count)

    def drop(self, member: Member) -> None:
        """End a worker at once, if it has not ended itself."""
        if member in self.members:
            self.members.remove(member)
            self.ended.append(member)
            member.ended = time.monotonic()
            self._ray.kill(member.actor)

    def close(self) -> None:
        """End all workers."""
        for member in [*self.members]:
            self.drop(member)

    def next_event(self) -> Event | None:
        """Wait for a worker that is in the pool still; None when none has said anything."""
        try:
            event = self._events.get(timeout=CHECK_SECONDS)
        except Empty:
            return None
        return event if event.member in self.members else None

    def silent_members(self, seconds: float) -> list[Member]:
        """Find the workers that owe an answer for so long, now and at the last check."""
        silent = []
        for member in self.members:
            is_late = member.is_busy and time.monotonic() - member.heard > seconds
            # Twice: after a pause of the driver itself, their answers are on the way.
            if is_late and member.is_late:
                silent.append(member)
            member.is_late = is_late
        return silent

    def nodes(self) -> set[str]:
        """Name the nodes of the cluster that are there, as far as is known by now."""
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    @contextmanager
    def cluster_errors(self) -> Iterator[None]:
        """Say in one sentence that the cluster itself is gone."""
        try:
            yield
        except self._ray.exceptions.RayError as error:
            message = f"the Ray cluster failed ({first_line(error)}); run again when it is back"
            raise BusyError(message) from error

    def _call(
        self, member: Member, name: Literal["open", "exchange", "give_back"], *arguments: object
    ) -> None:
        def note(future: "Future[object]") -> None:
            error = future.exception()
            value = None if error else future.result()
            member.heard = time.monotonic()
            self._events.put(Event(member, name, value, error))

        try:
            getattr(member.actor, name).remote(*arguments).future().add_done_callback(note)
        except self._ray.exceptions.RayError as error:
            self._events.put(Event(member, name, None, error))
