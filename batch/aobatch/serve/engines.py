"""Open models whose engines compute for whoever asks: connections, which go first, and batches."""

import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import TypeAlias

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.engine import Engine
from aobatch.engine.scheduler import weight
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta, Listener
from aobatch.errors import BusyError, JobError
from aobatch.executors import Backend, Executor, ModelIdentity, Statistics
from aobatch.models.store.catalogue import ModelRow, list_models, not_found
from aobatch.models.store.locate import Place

NUM_OTHERS = 1
"""Models that are open beside the server's own one."""

Heard: TypeAlias = Delta | Result | Exception
"""What is said of a request: pieces of its stream, and at last its result or what failed."""
Hear: TypeAlias = Callable[[Heard], None]


class SharedEngine:
    """An open model; any thread may submit requests, each with who is to hear of it."""

    def __init__(self, engine: Engine, on_fatal: Callable[[JobError], None]) -> None:
        self.num_leases = 0
        """Who relies on its being open; the owner's to count."""
        self._engine = engine
        self._on_fatal = on_fatal
        self._hearers: dict[int, tuple[Request, Hear]] = {}
        self._lock = threading.Lock()
        self._is_closed = False
        threading.Thread(target=self._work, name="engine", daemon=True).start()

    @property
    def statistics(self) -> EngineStatistics:
        """Counts and seconds since it was opened."""
        return self._engine.statistics

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many sequences are in slots and how many wait."""
        return self._engine.occupancy

    def submit(self, requests: Iterable[Request], hear: Hear) -> None:
        """Compute requests; `hear` is called by the engine's thread and must not wait."""
        requests = tuple(requests)
        with self._lock:
            self._hearers |= {id(request): (request, hear) for request in requests}
            self._engine.submit(requests)

    def cancel(self, requests: Iterable[Request]) -> None:
        """Give up those of the requests that have no result; nothing more is said of them."""
        with self._lock:
            for request in requests:
                if self._hearers.pop(id(request), None):
                    self._engine.cancel(request)

    def close(self) -> None:
        """End the thread; whatever is under way is given up."""
        self._is_closed = True
        self.cancel([request for request, _ in list(self._hearers.values())])
        self._engine.wake()

    def _work(self) -> None:
        while not self._is_closed:
            try:
                for result in self._engine.run(self._nothing(), self._tell_piece):
                    self._tell(result)
            except JobError as error:  # a lane that hangs: only a new process helps
                self._fail(error)
                self._on_fatal(error)
                return
            except Exception as error:  # noqa: BLE001 - whatever a request may set off
                self._fail(error)

    def _nothing(self) -> Iterator[None]:
        while not self._is_closed:
            yield None

    def _tell_piece(self, delta: Delta) -> None:
        if found := self._hearers.get(id(delta.request)):
            found[1](delta)

    def _tell(self, result: Result) -> None:
        with self._lock:
            found = self._hearers.pop(id(result.request), None)
        if found:
            found[1](result)

    def _fail(self, error: Exception) -> None:
        with self._lock:
            failed, self._hearers = self._hearers, {}
        for _, hear in failed.values():
            hear(error)


class Models:
    """The models that requests may name, and those that are open.

    The server's own model stays open. One other may be beside it; if none asks for it any more,
    it makes room for the next. Paths are no names here: clients are not to look into the machine.
    """

    def __init__(
        self,
        backend: Backend,
        load: Callable[[ModelIdentity], Engine],
        name: str | None,
        rows: Callable[[], Iterable[ModelRow]] = list_models,
    ) -> None:
        """Find the server's own model; ModelError if it cannot be had."""
        self.name = name
        self.backend = backend
        self.own = backend.resolve(name)
        mine = [row.aliases for row in rows() if row.name == self.own.name]
        self.own_names = {None, name, self.own.name, *chain(*mine)}
        self.on_fatal: Callable[[JobError], None] = lambda _: None
        self._load = load
        self._rows = rows
        self._open: dict[ModelIdentity, SharedEngine] = {}
        self._loading: set[ModelIdentity] = set()
        self._changed = threading.Condition()

    def names(self) -> list[str]:
        """List the names and aliases that requests may give, the server's own model first."""
        ready = [row for row in self._rows() if row.is_ready]
        names = [self.own.name, *(name for row in ready for name in (row.name, *row.aliases))]
        return list(dict.fromkeys(names))

    def find(self, name: str | None, began: str = "") -> ModelIdentity:
        """Find the model of a name, as a Backend does; ModelError if there is none."""
        if name in self.own_names:
            is_own = began in {"", self.own.fingerprint}
            return self.own if is_own else self.backend.resolve(self.name, began)
        rows, name = list(self._rows()), str(name)
        for row in rows:
            if name in (row.name, *row.aliases):
                return self.backend.resolve(row.name, began)
        raise not_found(name, Place(Path(name)), [row.name for row in rows])

    def acquire(self, model: ModelIdentity, *, waits: bool) -> SharedEngine:
        """Open a model, unless it is, until `release`; BusyError if another is in its place."""
        with self._changed:
            while model not in self._open:
                if model in self._loading or (waits and not self._has_place(model)):
                    self._changed.wait()
                elif self._has_place(model):
                    break
                else:
                    message = f"Model {model.name} is not open, and another one is in its place."
                    raise BusyError(message)
            else:
                self._open[model].num_leases += 1
                return self._open[model]
            self._loading.add(model)
        return self._opened(model)

    def _opened(self, model: ModelIdentity) -> SharedEngine:
        try:
            engine = SharedEngine(self._load(model), self.on_fatal)
            engine.num_leases = 1
            self._open[model] = engine
            return engine
        finally:
            with self._changed:
                self._loading.discard(model)
                self._changed.notify_all()

    def release(self, engine: SharedEngine) -> None:
        """Say that an engine is needed no longer."""
        with self._changed:
            engine.num_leases -= 1
            self._changed.notify_all()

    def open_engines(self) -> dict[str, SharedEngine]:
        """Give the engines that are open, by the names of their models."""
        return {model.name: engine for model, engine in list(self._open.items())}

    def close(self) -> None:
        """Give up whatever is under way."""
        for engine in self.open_engines().values():
            engine.close()

    def _has_place(self, model: ModelIdentity) -> bool:
        others = {m: engine for m, engine in self._open.items() if m != self.own}
        loading = self._loading - {self.own}
        if model == self.own or len(others) + len(loading) < NUM_OTHERS:
            return True
        idle = next((m for m, engine in others.items() if not engine.num_leases), None)
        if idle is not None:
            self._open.pop(idle).close()
        return idle is not None


class HaltedError(JobError):
    """A batch is to stop, for the reason that is the message; its results are kept."""

    exit_code = BusyError.exit_code


class Halt:
    """By which the job of a batch is told to stop."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._listeners: list[Hear] = []

    def set(self, reason: str) -> None:
        """Tell it; the first reason stays."""
        self.reason = self.reason or reason
        for hear in list(self._listeners):
            hear(HaltedError(self.reason))

    def check(self) -> None:
        """Raise HaltedError if it was told."""
        if self.reason is not None:
            raise HaltedError(self.reason)

    @contextmanager
    def heard_by(self, hear: Hear) -> Iterator[None]:
        """Let somebody hear of it, who may wait for something else, while the block runs."""
        self._listeners.append(hear)
        try:
            self.check()
            yield
        finally:
            self._listeners.remove(hear)


class SharedBackend:
    """The server's engines as the place where a batch is computed."""

    survives_requests = False

    def __init__(self, models: Models, halt: Halt) -> None:
        self._models = models
        self._halt = halt

    @property
    def settings(self) -> Mapping[str, object]:
        """Those options of the engines that shape results."""
        return self._models.backend.settings

    def resolve(self, name: str | None, began: str = "") -> ModelIdentity:
        """Find a model that requests may name, computed as a batch has begun."""
        return self._models.find(name, began)

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Take part in a model's engine."""
        engine = self._models.acquire(model, waits=True)
        try:
            yield SharedExecutor(engine, self._halt)
        finally:
            self._models.release(engine)

    def __reduce__(self) -> tuple[object, ...]:
        # A process of its own, for a request that may kill it, opens the model by itself.
        return _itself, (self._models.backend,)


def _itself(backend: Backend) -> Backend:
    return backend


class SharedExecutor:
    """A batch's part of an engine; it reads ahead as a run does."""

    def __init__(self, engine: SharedEngine, halt: Halt) -> None:
        self._engine = engine
        self._halt = halt
        self._counted = EngineStatistics()
        self._lookahead = EngineConfig().lookahead

    @property
    def statistics(self) -> Statistics:
        """What can be told of one batch among others: its tokens."""
        return Statistics(engine=self._counted)

    def run(
        self, requests: Iterable[Request], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Compute every request; HaltedError if the batch is to stop, or what the engine raises."""
        inbox: SimpleQueue[Heard] = SimpleQueue()
        source, under_way = iter(requests), dict[int, Request]()
        with self._halt.heard_by(inbox.put):
            try:
                while True:
                    if len(under_way) < self._lookahead:
                        self._engine.submit(block := self._block(source), inbox.put)
                        under_way |= {id(request): request for request in block}
                    if not under_way:
                        return
                    heard = inbox.get()
                    if isinstance(heard, Exception):
                        raise heard
                    if isinstance(heard, Result):
                        del under_way[id(heard.request)]
                        self._count(heard)
                        yield heard
                    elif listener:
                        listener(heard)
            finally:
                self._engine.cancel(under_way.values())

    def _block(self, source: Iterator[Request]) -> list[Request]:
        """Read half of the look-ahead, in prompts, which the engine puts in an order of its own."""
        block: list[Request] = []
        size = 0
        while size < self._lookahead // 2 and (request := next(source, None)):
            block.append(request)
            size += weight(request)
        return block

    def _count(self, result: Result) -> None:
        self._counted.prefill_tokens += result.usage.prompt_tokens
        self._counted.sampled_tokens += result.usage.completion_tokens
