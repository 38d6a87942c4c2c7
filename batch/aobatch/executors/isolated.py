"""Requests that may kill their process, computed in one of their own.

A process that dies takes nothing with it but the requests that it was at; these are halved and
tried again until one that dies alone is found. What else the job's own process dies of convicts
nobody.
"""

import os
import signal
import threading
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeAlias

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.sequence import Result
from aobatch.errors import JobError, ModelError, RequestError
from aobatch.executors import Backend, ModelIdentity

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta, Listener


@dataclass(frozen=True, slots=True)
class Ready:
    """The model is open."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A result, and the pieces of its stream."""

    result: Result
    deltas: "tuple[Delta, ...]"


@dataclass(frozen=True, slots=True)
class End:
    """The work is over, or failed."""

    statistics: Mapping[str, float] = field(default_factory=dict)
    lacks_memory: bool = False


Message: TypeAlias = Ready | Answer | End | JobError
"""What the other process hears; a JobError says why the model cannot be opened."""


def work(
    connection: Connection, backend: Backend, model: ModelIdentity, requests: Sequence[Request]
) -> None:
    """Compute requests and send what becomes of them; never returns."""
    _obey_parent()
    try:
        connection.send(_compute(connection, backend, model, requests))
    except BaseException as error:  # noqa: BLE001 - the other process hears of it
        connection.send(
            error if isinstance(error, JobError) else End(lacks_memory=_is_memory(error))
        )
    finally:
        os._exit(0)  # a lane that hangs would be waited for


def _compute(
    connection: Connection, backend: Backend, model: ModelIdentity, requests: Sequence[Request]
) -> End:
    deltas: defaultdict[str, list[Delta]] = defaultdict(list)
    with backend.open(model) as executor:
        connection.send(Ready())
        for result in executor.run(requests, lambda delta: deltas[delta.request.key].append(delta)):
            key = result.request.key
            connection.send(Answer(result, tuple(deltas.pop(key, ()))))
        return End(executor.statistics)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError)


def _obey_parent() -> None:
    """Leave signals that stop a run to the parent, and end when it does."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_follow, args=(parent.sentinel,), daemon=True).start()


def _follow(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@dataclass(slots=True)
class _Attempt:
    """What one process did."""

    is_ready: bool = False
    answered: set[str] = field(default_factory=set)
    end: End | None = None
    """None if it died."""


class IsolatedExecutor:
    """One model, opened in processes of their own."""

    def __init__(self, backend: Backend, model: ModelIdentity) -> None:
        self._backend = backend
        self._model = model
        self._statistics: dict[str, float] = {}

    @property
    def statistics(self) -> Mapping[str, float]:
        """Counts and seconds of all processes that ended in order."""
        return self._statistics

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> Generator[Result, None, None]:
        """Compute every request; one whose process dies of it alone gets an error."""
        groups = deque([list(requests)])
        while groups:
            group = groups.popleft()
            attempt = _Attempt()
            yield from self._try(group, attempt, listener)
            left = [request for request in group if request.key not in attempt.answered]
            if len(group) == 1 and left:
                yield Result(left[0], (), Usage(0, 0, 0), _fault(attempt), 0.0)
            elif left:
                middle = (len(left) + 1) // 2
                groups.extendleft(half for half in (left[middle:], left[:middle]) if half)

    def _try(
        self, group: Sequence[Request], attempt: _Attempt, listener: "Listener | None"
    ) -> Generator[Result, None, None]:
        """Let a process compute a group; yield what it answers before it ends or dies."""
        context = get_context("spawn")  # a fork would copy threads' locks
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, self._backend, self._model, group)
        process = context.Process(target=work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        try:
            yield from self._hear(ours, attempt, listener)
        finally:
            process.kill()
            process.join()
            process.close()
            ours.close()
        if not attempt.is_ready:
            message = f"model {self._model.name} cannot be opened: a process that tried to died"
            raise ModelError(message)

    def _hear(
        self, connection: Connection, attempt: _Attempt, listener: "Listener | None"
    ) -> Generator[Result, None, None]:
        while (message := _receive(connection)) is not None:
            if isinstance(message, Ready):
                attempt.is_ready = True
            elif isinstance(message, Answer):
                attempt.answered.add(message.result.request.key)
                if listener is not None:
                    for delta in message.deltas:
                        listener(delta)
                yield message.result
            elif isinstance(message, End):
                self._count(message.statistics)
                attempt.end = message
            elif not attempt.is_ready:
                raise message

    def _count(self, statistics: Mapping[str, float]) -> None:
        for name, value in statistics.items():
            self._statistics[name] = self._statistics.get(name, 0) + value


def _receive(connection: Connection) -> Message | None:
    """Give the next message; None when the process has gone."""
    try:
        message: Message = connection.recv()
    except (EOFError, OSError):
        return None
    return message


def _fault(attempt: _Attempt) -> RequestError:
    lacks_memory = attempt.end is not None and attempt.end.lacks_memory
    return errors.insufficient_memory() if lacks_memory else errors.engine_crash()
