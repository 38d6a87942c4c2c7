"""What a worker is: an engine that is kept full by whoever calls it."""

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING

import msgspec

from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.sequence import Result
from aobatch.errors import ErrorCode, JobError, ModelError, RequestError
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend, available_memory, fingerprint
from aobatch.executors.ray.distribution import SentFile, find_model, receive_model, sent_place
from aobatch.models.store.catalogue import models_home
from aobatch.models.store.locate import open_model
from aobatch.runners import RunnerConfig

if TYPE_CHECKING:
    from aobatch.engine.engine import Engine
    from aobatch.engine.streaming import Delta


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Further requests for a worker, and how it is to answer."""

    requests: list[Request]
    patience: float
    """Seconds to wait for the first result."""
    interval: float
    """Seconds to wait for further ones behind it."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """The error that a request ended with."""

    message: str
    code: ErrorCode
    param: str | None
    status_code: int


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A result, without its request."""

    key: str
    choices: tuple[Choice, ...]
    usage: Usage
    fault: Fault | None
    seconds: float


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A piece of a stream."""

    key: str
    choice: Choice


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What an engine failed with; it computes nothing more."""

    text: str
    lacks_memory: bool


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has done since its last reply."""

    items: list[Outcome | Piece]
    statistics: EngineStatistics
    """Counts and seconds of its engine so far."""
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its engine."""

    node: str
    """The id of its node."""
    process: int
    version: str
    """Of aobatch."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A worker's node does not have the model."""


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
"""Refuses whatever is no reply with msgspec.ValidationError or DecodeError."""


def outcome_of(result: Result) -> Outcome:
    """Take the request out of a result: the driver has it."""
    error, fault = result.error, None
    if error is not None:
        fault = Fault(error.message, error.code, error.param, error.status_code)
    return Outcome(result.request.key, result.choices, result.usage, fault, result.seconds)


def result_of(request: Request, outcome: Outcome) -> Result:
    """Put the request back in."""
    fault, error = outcome.fault, None
    if fault is not None:
        error = RequestError(
            fault.message, code=fault.code, param=fault.param, status_code=fault.status_code
        )
    return Result(request, outcome.choices, outcome.usage, error, outcome.seconds)


def first_line(error: BaseException) -> str:
    """Say what an error of Ray is, which may explain itself at length."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"


class Mailbox:
    """Requests that wait for an engine, and what it made of earlier ones.

    An engine iterates over the requests; a None says that there are no more for now.
    """

    def __init__(self, on_arrival: Callable[[], None]) -> None:
        """`on_arrival` is called whenever requests have come."""
        self._on_arrival = on_arrival
        self._requests: deque[Request] = deque()
        self._items: list[Outcome | Piece] = []
        self._failure: Failure | None = None
        self._changed = Condition()

    def __iter__(self) -> Iterator[Request | None]:
        """Give itself."""
        return self

    def __next__(self) -> Request | None:
        """Give the next request; never blocks, and never ends."""
        with self._changed:
            return self._requests.popleft() if self._requests else None

    def add(self, requests: Iterable[Request]) -> None:
        """Let requests wait behind the others."""
        with self._changed:
            self._requests.extend(requests)
        self._on_arrival()

    def give_back(self, count: int) -> list[str]:
        """Take so many requests away again, those that came last; give their keys."""
        with self._changed:
            return [self._requests.pop().key for _ in range(min(count, len(self._requests)))]

    def put(self, item: Outcome | Piece) -> None:
        """Keep what the engine has made, until it is collected."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def fail(self, failure: Failure) -> None:
        """Note that the engine makes nothing more."""
        with self._changed:
            self._failure = failure
            self._changed.notify_all()

    def collect(
        self, patience: float, interval: float
    ) -> tuple[list[Outcome | Piece], Failure | None]:
        """Wait for the first item, then for more; give all."""
        with self._changed:
            if self._changed.wait_for(lambda: self._items or self._failure, patience):
                self._changed.wait_for(lambda: self._failure, interval)
            items, self._items = self._items, []
            return items, self._failure


PARENT_SECONDS = 0.5
"""How often a worker looks whether the process that started it is there."""


@dataclass(frozen=True, slots=True)
class Opener:
    """How a worker opens its engine; the driver sends it, the node fills in what it has."""

    config: EngineConfig
    runner: RunnerConfig
    workers_per_node: int
    """What the memory of a node is shared out among."""
    digest: str
    """By which a node knows whether it has the model."""
    keeps_cache_bytes: bool = False
    """Whether the config says how much memory keys and values take."""

    def places(self, model: ModelIdentity) -> list[Path]:
        """Say where on a node the model may be: on shared storage, pulled there, or sent."""
        home = models_home()
        return [model.path, home / Path(model.name).name, sent_place(self.digest, model.path)]

    def open(self, model: ModelIdentity, path: Path) -> "Engine":
        """Open a model at a place of this node; ModelError if it would give other results."""
        config = self.config
        if not self.keeps_cache_bytes:
            share = available_memory() // 2 // self.workers_per_node
            config = replace(config, kv_cache_bytes=share)
        here = fingerprint(open_model(path), self.runner.kv_cache_dtype)
        if here != model.fingerprint:
            message = (
                f"model {model.name} is {here} on a worker and {model.fingerprint} on the driver; "
                "use one version of onnxruntime everywhere"
            )
            raise ModelError(message)
        return LocalBackend(config, self.runner).load(replace(model, path=path))


class Worker:
    """One engine in a process of Ray; its methods are called side by side."""

    def __init__(self, opener: Opener, model: ModelIdentity) -> None:
        self._opener = opener
        self._model = model
        self._engine: Engine | None = None
        self._started = 0.0
        Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
        self._mailbox = Mailbox(self._wake)

    def open(self, files: Sequence[SentFile] = ()) -> Ready | Missing | JobError:
        """Open the engine, or say why that cannot be done; files are those of the model."""
        import ray

        try:
            places = self._opener.places(self._model)
            if files:
                receive_model(ray, files, places[-1], self._opener.digest)
            path = find_model(places, self._opener.digest)
            if path is None:
                return _unknown(places[-1]) if files else Missing()
            self._engine = self._opener.open(self._model, path)
        except JobError as error:
            return error
        self._started = time.monotonic()
        Thread(target=self._compute, args=(self._engine,), name="engine", daemon=True).start()
        node = ray.get_runtime_context().get_node_id()
        return Ready(node, os.getpid(), package_version())

    def exchange(self, order: bytes) -> bytes:
        """Take further requests, and give what has been done since the last call."""
        decoded = decode_order(order)
        if decoded.requests:
            self._mailbox.add(decoded.requests)
        items, failure = self._mailbox.collect(decoded.patience, decoded.interval)
        return encode(Reply(items, self._statistics(), failure))

    def give_back(self, count: int) -> list[str]:
        """Forget so many requests that the engine has not begun; give their keys."""
        return self._mailbox.give_back(count)

    def _compute(self, engine: "Engine") -> None:
        def hear(delta: "Delta") -> None:
            self._mailbox.put(Piece(delta.request.key, delta.choice))

        try:
            for result in engine.run(self._mailbox, hear):
                self._mailbox.put(outcome_of(result))
        except BaseException as error:  # noqa: BLE001 - the driver hears of it
            text = f"{type(error).__name__}: {error}"
            self._mailbox.fail(Failure(text, isinstance(error, MemoryError)))

    def _statistics(self) -> EngineStatistics:
        if self._engine is None:
            return EngineStatistics()
        # The run of a worker's engine never ends, and only an end is counted.
        return replace(self._engine.statistics, run_seconds=time.monotonic() - self._started)

    def _wake(self) -> None:
        if self._engine:
            self._engine.wake()


def _end_with_parent(parent: int) -> None:
    """Let no worker outlive its node's Ray, which it may await for a minute otherwise."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)


def _unknown(place: Path) -> ModelError:
    message = (
        f"a worker was sent the model to {place} and cannot open it there; use one version of "
        "aobatch everywhere"
    )
    return ModelError(message)


def package_version() -> str:
    """Give the version of this package, empty if it is not installed."""
    try:
        return version("aobatch")
    except PackageNotFoundError:
        return ""
