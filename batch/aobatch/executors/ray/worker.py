"""A worker of Ray: an engine that the driver keeps full, and the messages between the two."""

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.errors import JobError, ModelError, RequestError
from aobatch.executors import ModelIdentity, package_version
from aobatch.executors.isolated import end_with_parent
from aobatch.executors.local import LocalBackend, available_memory, fingerprint
from aobatch.executors.ray.distribution import SentFile, find_model, receive_model, sent_place
from aobatch.models.store.catalogue import models_home
from aobatch.models.store.locate import open_model
from aobatch.runners import RunnerConfig
from aobatch.runners.choice import KernelChoice

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


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A result, without its request: the driver has it."""

    key: str
    choices: tuple[Choice, ...]
    usage: Usage
    error: RequestError | None
    times: tuple[float, float]
    """In slots and waiting, as a result has them; seconds."""


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A piece of a stream."""

    key: str
    choice: Choice


class Failure(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """What an engine failed with; it computes nothing more."""

    text: str
    lacks_memory: bool


Item: TypeAlias = Outcome | Piece | Failure


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has done since its last reply."""

    items: list[Item]
    statistics: EngineStatistics
    """Counts and seconds of its engine so far."""


encode = msgspec.msgpack.Encoder(enc_hook=vars).encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_reply = msgspec.msgpack.Decoder(
    Reply, dec_hook=lambda _, fields: RequestError(**fields)
).decode
"""Refuses whatever is no reply with msgspec.ValidationError or DecodeError."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its engine."""

    node: str
    """The id of its node."""
    process: int
    version: str
    """Of aobatch."""


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
        here = fingerprint(open_model(path), KernelChoice(model.kernels, model.kv_cache_dtype))
        if here != model.fingerprint:
            message = (
                f"model {model.name} is {here} on a worker and {model.fingerprint} on the driver; "
                "use one version of aobatch and of onnxruntime everywhere"
            )
            raise ModelError(message)
        return LocalBackend(config, self.runner).load(replace(model, path=path))


class Buffer:
    """Requests that wait for an engine, and what it made of earlier ones; for several threads."""

    def __init__(self) -> None:
        self._requests: deque[Request] = deque()
        self.items: SimpleQueue[Item] = SimpleQueue()
        """What the engine has made, until it is collected."""

    def add(self, requests: list[Request]) -> None:
        """Let requests wait behind the others."""
        self._requests.extend(requests)

    def requests(self) -> Iterator[Request | None]:
        """Yield requests for ever; None where there is none for now."""
        while True:
            try:
                request = self._requests.popleft()
            except IndexError:
                yield None
            else:
                yield request

    def give_back(self, count: int) -> list[str]:
        """Take so many requests away again, those that came last; return their keys."""
        keys: list[str] = []
        with suppress(IndexError):
            while len(keys) < count:
                keys.append(self._requests.pop().key)
        return keys

    def collect(self, patience: float, interval: float) -> list[Item]:
        """Wait for the first item, then for more; a failure is the last one."""
        items: list[Item] = []
        with suppress(Empty):
            items.append(self.items.get(timeout=patience))
            end = time.monotonic() + interval
            while not isinstance(items[-1], Failure):
                items.append(self.items.get(timeout=max(0.0, end - time.monotonic())))
        return items


class Worker:
    """One engine in a process of Ray; its methods are called side by side."""

    def __init__(self, opener: Opener, model: ModelIdentity) -> None:
        self._opener = opener
        self._model = model
        self._buffer = Buffer()
        self._engine: Engine | None = None
        self._started = 0.0
        end_with_parent()  # which may wait for the end of its workers for a minute otherwise

    def open(self, files: Sequence[SentFile] = ()) -> Ready | JobError | None:
        """Open the engine, or say why that cannot be done; None if the node has no such model."""
        import ray

        try:
            path = self._find_model(ray, files)
            if path is None:
                return None
            self._engine = self._opener.open(self._model, path)
        except JobError as error:
            return error
        self._started = time.monotonic()
        Thread(target=self._compute, args=(self._engine,), name="engine", daemon=True).start()
        return Ready(ray.get_runtime_context().get_node_id(), os.getpid(), package_version())

    def exchange(self, order: bytes) -> bytes:
        """Take further requests, and give what has been done since the last call."""
        engine, decoded = self._engine, decode_order(order)
        assert engine is not None
        if decoded.requests:
            self._buffer.add(decoded.requests)
            engine.wake()
        items = self._buffer.collect(decoded.patience, decoded.interval)
        # The run of a worker's engine never ends, and only an end is counted.
        seconds = time.monotonic() - self._started
        return encode(Reply(items, replace(engine.statistics, run_seconds=seconds)))

    def give_back(self, count: int) -> list[str]:
        """Forget so many requests that the engine has not begun; return their keys."""
        return self._buffer.give_back(count)

    def _find_model(self, ray: ModuleType, files: Sequence[SentFile]) -> Path | None:
        places, digest = self._opener.places(self._model), self._opener.digest
        if files:
            receive_model(ray, files, places[-1], digest)
        path = find_model(places, digest)
        if files and path is None:
            message = (
                f"a worker was sent the model to {places[-1]} and cannot open it there; use one "
                "version of aobatch everywhere"
            )
            raise ModelError(message)
        return path

    def _compute(self, engine: "Engine") -> None:
        items = self._buffer.items

        def hear(delta: "Delta") -> None:
            items.put(Piece(delta.request.key, delta.choice))

        try:
            for result in engine.run(self._buffer.requests(), hear):
                key, error = result.request.key, result.error
                times = result.seconds, result.waited
                items.put(Outcome(key, result.choices, result.usage, error, times))
        except BaseException as error:  # noqa: BLE001 - the driver hears of it
            text = f"{type(error).__name__}: {error}"
            items.put(Failure(text, isinstance(error, MemoryError)))
