"""What a worker is: an engine that is kept full by whoever calls it."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

from aobatch.engine.config import EngineConfig
from aobatch.errors import JobError, ModelError
from aobatch.executors import ModelIdentity
from aobatch.executors.local import LocalBackend, fingerprint, open_model
from aobatch.executors.memory import available_memory
from aobatch.executors.ray.distribution import SentFile, find_model, receive_model, sent_place
from aobatch.executors.ray.mailbox import Mailbox
from aobatch.executors.ray.messages import (
    Failure,
    Missing,
    Piece,
    Ready,
    Reply,
    decode_order,
    encode,
    outcome_of,
)
from aobatch.models.store.catalogue import models_home

if TYPE_CHECKING:
    from aobatch.engine.engine import Engine
    from aobatch.engine.streaming import Delta


PARENT_SECONDS = 0.5
"""How often a worker looks whether the process that started it is there."""


@dataclass(frozen=True, slots=True)
class Opener:
    """How a worker opens its engine; the driver sends it, the node fills in what it has."""

    config: EngineConfig
    threads: int
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
        here = fingerprint(open_model(path), config.kv_cache_dtype)
        if here != model.fingerprint:
            message = (
                f"model {model.name} is {here} on a worker and {model.fingerprint} on the driver; "
                "use one version of onnxruntime everywhere"
            )
            raise ModelError(message)
        return LocalBackend(config, self.threads).load(replace(model, path=path))


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
        return encode(Reply(items, dict(self._statistics()), failure))

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

    def _statistics(self) -> Mapping[str, float]:
        if self._engine is None:
            return {}
        # The run of a worker's engine never ends, and only an end is counted.
        return asdict(self._engine.statistics) | {"run_seconds": time.monotonic() - self._started}

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
