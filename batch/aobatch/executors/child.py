"""What a process does that computes suspect requests for another one."""

import os
import signal
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, TypeAlias

from aobatch.api.request import Request
from aobatch.engine.sequence import Result
from aobatch.errors import JobError
from aobatch.executors import Backend, ModelIdentity

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta


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
