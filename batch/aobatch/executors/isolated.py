"""Requests that may kill their process, computed in one of their own.

A process that dies takes nothing with it but the requests that it was at; these are halved and
tried again until one that dies alone is found. What else the job's own process dies of convicts
nobody.
"""

import os
import signal
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, TypeAlias

from aobatch.api import errors
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.sequence import Result
from aobatch.errors import JobError, ModelError, RequestError
from aobatch.executors import Backend, ModelIdentity, Statistics

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta, Listener

PARENT_SECONDS = 0.5
"""How often a process looks whether the one that has started it is there."""


class IsolatedExecutor:
    """One model, opened in processes of their own."""

    def __init__(self, backend: Backend, model: ModelIdentity) -> None:
        self._backend = backend
        self._model = model
        self._statistics = Statistics()

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds of all processes that ended in order."""
        return self._statistics

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> Generator[Result, None, None]:
        """Compute every request; one whose process dies of it alone gets an error."""
        yield from find_culprits([[*requests]], lambda group: self._attempt(group, listener))

    def _attempt(
        self, requests: list[Request], listener: "Listener | None"
    ) -> Generator[Result, None, None]:
        """Compute requests in a new process; RequestError if it dies of one of them."""
        context = get_context("spawn")  # a fork would copy threads' locks
        ours, theirs = context.Pipe(duplex=False)
        arguments = (theirs, self._backend, self._model, requests)
        process = context.Process(target=_work, args=arguments, daemon=True)
        process.start()
        theirs.close()
        try:
            yield from self._hear(ours, listener)
        finally:
            process.kill()
            process.join()
            process.close()
            ours.close()

    def _hear(
        self, connection: Connection, listener: "Listener | None"
    ) -> Generator[Result, None, None]:
        opened = _receive(connection)
        if isinstance(opened, JobError):
            raise opened
        if opened is not None:
            message = f"model {self._model.name} cannot be opened: a process that tried to died"
            raise ModelError(message)
        while isinstance(said := _receive(connection), tuple):
            result, deltas = said
            if listener:
                for delta in deltas:
                    listener(delta)
            yield result
        if not isinstance(said, Statistics):
            raise said if isinstance(said, RequestError) else errors.engine_crash()
        self._statistics += said


def find_culprits(
    groups: Iterable[list[Request]],
    attempt: Callable[[list[Request]], Generator[Result, None, None]],
) -> Iterator[Result]:
    """Compute groups of requests; halve one that an attempt fails at, until the culprit is alone.

    An attempt yields results, and raises at the end the error that a lone request is to have. One
    that ends early without an error is repeated with what is left.
    """
    waiting = deque(groups)
    while waiting:
        group, answered, fault = waiting.popleft(), set[str](), None
        try:
            for result in attempt(group):
                answered.add(result.request.key)
                yield result
        except RequestError as error:
            fault = error
        left = [request for request in group if request.key not in answered]
        if fault and left and len(group) == 1:
            yield Result(left[0], (), Usage(0, 0, 0), fault, 0.0)
        else:
            middle = (len(left) + 1) // 2
            waiting.extendleft(half for half in (left[middle:], left[:middle]) if half)


_Answer: TypeAlias = "tuple[Result, list[Delta]]"
"""A result, and the pieces of its stream."""
_Message: TypeAlias = "_Answer | Statistics | JobError | RequestError | None"
"""What a process says: None when its model is open, answers, and at last its statistics or what
it failed with."""


def _receive(connection: Connection) -> _Message:
    try:
        message: _Message = connection.recv()
    except (EOFError, OSError):  # it has died
        return errors.engine_crash()
    return message


def _work(
    connection: Connection, backend: Backend, model: ModelIdentity, requests: list[Request]
) -> None:
    """Compute requests in this process, which the parent has started, and end it."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # those that stop a run are the parent's
    end_with_parent()
    try:
        connection.send(_compute(connection, backend, model, requests))
    except JobError as error:
        connection.send(error)
    except MemoryError:
        connection.send(errors.insufficient_memory())
    except BaseException:  # noqa: BLE001 - the parent hears of it
        connection.send(errors.engine_crash())
    finally:
        os._exit(0)  # a lane that hangs would be waited for


def _compute(
    connection: Connection, backend: Backend, model: ModelIdentity, requests: list[Request]
) -> Statistics:
    deltas: defaultdict[str, list[Delta]] = defaultdict(list)
    with backend.open(model) as executor:
        connection.send(None)
        for result in executor.run(requests, lambda delta: deltas[delta.request.key].append(delta)):
            connection.send((result, deltas.pop(result.request.key, [])))
        return executor.statistics


def end_with_parent() -> None:
    """End this process soon after the one that has started it."""
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
