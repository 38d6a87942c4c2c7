"""Requests that may kill their process, computed in one of their own.

A process that dies takes nothing with it but the requests that it was at; these are halved and
tried again until one that dies alone is found. What else the job's own process dies of convicts
nobody.
"""

from collections import deque
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.sequence import Result
from aobatch.errors import ModelError, RequestError
from aobatch.executors import Backend, ModelIdentity
from aobatch.executors.child import Answer, End, Message, Ready, work

if TYPE_CHECKING:  # a finished job is told so without loading numpy
    from aobatch.engine.streaming import Listener


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
