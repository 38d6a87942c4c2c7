"""Requests computed in this process."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.executors import Executor, ModelIdentity
from aobatch.models.foreign import ExportedFolder, is_export, open_export
from aobatch.models.store.catalogue import ensure, find_card, find_ready, resolve
from aobatch.models.store.folder import (
    MANIFEST,
    CacheDtype,
    Manifest,
    ModelFolder,
    has_file,
    open_folder,
)
from aobatch.runners import RunnerConfig, session_threads

if TYPE_CHECKING:
    from aobatch.engine.engine import Engine
    from aobatch.engine.preparation import ModelLimits
    from aobatch.engine.sequence import Result
    from aobatch.engine.streaming import Listener
    from aobatch.runners import ModelRunner


T = TypeVar("T")


def interruptible(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own and give or raise what it does.

    Python hears signals between two steps of the main thread, which must not be in native code
    then. After an exception from a signal the thread is left to itself.
    """
    outcomes: SimpleQueue[tuple[T | None, BaseException | None]] = SimpleQueue()

    def work() -> None:
        try:
            outcomes.put((function(), None))
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcomes.put((None, error))

    Thread(target=work, name="waiting", daemon=True).start()
    value, error = outcomes.get()
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


MEMINFO = Path("/proc/meminfo")
GROUP_LIMITS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ),
)
"""Limit and use of the control group that a container sees as its own, version 2 and 1."""
UNLIMITED = 2**60


def default_kv_cache_bytes() -> int:
    """Give what keys and values may take where nobody says: half of what is free."""
    return available_memory() // 2


def available_memory() -> int:
    """Give the bytes that can be taken without pushing others out, within a container's limit."""
    free = _system_memory()
    for bound, taken in _group_limits():
        free = min(free, max(0, bound - taken))
    return free


def container_limit() -> int | None:
    """Give the bytes that a container allows its processes together; None without a limit."""
    return min((bound for bound, _ in _group_limits()), default=None)


def _group_limits() -> Iterator[tuple[int, int]]:
    for limit, used in GROUP_LIMITS:
        bound, taken = _number(limit), _number(used)
        # Version 1 writes a limit beyond all memory where there is none.
        if bound is not None and taken is not None and bound < UNLIMITED:
            yield bound, taken


def _system_memory() -> int:
    try:
        lines = MEMINFO.read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def _number(path: Path) -> int | None:
    """Read a number; None if the file is not there or says `max`."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdecimal() else None


def _show_nothing(_stage: str, _done: int, _total: int) -> None:
    """Ignore how far a stage is."""


class LocalBackend:
    """Models of the catalogue on this machine."""

    survives_requests = False

    def __init__(
        self,
        config: EngineConfig | None = None,
        runner: RunnerConfig | None = None,
        progress: Callable[[str, int, int], None] = _show_nothing,
    ) -> None:
        """Take half of the free memory and all cores, if nothing else is said."""
        self.config = config or EngineConfig(kv_cache_bytes=default_kv_cache_bytes())
        self.runner = runner or RunnerConfig()
        self._progress = progress

    @property
    def settings(self) -> Mapping[str, object]:
        """Those options that shape results: neither batch size nor threads do."""
        config = self.config
        return {
            "seed": config.seed,
            "clamp_max_tokens": config.clamp_max_tokens,
            "logprobs_mode": config.logprobs_mode,
            "kv_cache_dtype": self.runner.kv_cache_dtype,
        }

    def resolve(self, name: str | None) -> ModelIdentity:
        """Find a model; the default one is fetched and converted the first time."""
        card = find_card(name)
        if card is not None and card.default:
            folder = pull(card.name, self._progress)
        else:
            folder = resolve(name)
        named = fingerprint(folder, self.runner.kv_cache_dtype)
        manifest = folder.manifest
        return ModelIdentity(manifest.name, named, folder.path, manifest.precision)

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Load a model."""
        yield LocalExecutor(self.load(model))

    def load(self, model: ModelIdentity) -> "Engine":
        """Give an engine over a model."""
        folder = open_model(model.path)
        stage = f"opening {folder.manifest.source} of {folder.manifest.name}"
        is_export = isinstance(folder, ExportedFolder)
        if is_export:  # which of a folder's graphs it is was chosen, and trying it takes a while
            self._progress(stage, 0, 1)
        engine = interruptible(lambda: open_engine(folder, self.config, self.runner))
        if is_export:
            self._progress(stage, 1, 1)
        return engine

    def __reduce__(self) -> tuple[object, ...]:
        # Another process opens models that are there already, so it has nothing to show.
        return LocalBackend, (self.config, self.runner, _show_nothing)


class LocalExecutor:
    """An engine in this process."""

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> "Generator[Result, None, None]":
        """Compute every request; results come as they finish."""
        yield from self._engine.run(requests, listener)

    @property
    def statistics(self) -> Mapping[str, float]:
        """Steps, tokens and seconds of the engine so far."""
        return asdict(self._engine.statistics)


def pull(
    name: str | None, progress: Callable[[str, int, int], None], precision: str | None = None
) -> ModelFolder:
    """Give a model of the catalogue, fetched and converted if it is not here yet."""
    if ready := find_ready(name, precision):
        return ready
    # A model that is here, and a finished job with it, is not to wait for the runtime.
    from aobatch.runners.scoring import score_texts

    return ensure(name, progress, score_texts, precision)


def load_engine(
    model: str | None = None,
    config: EngineConfig | None = None,
    runner: RunnerConfig | None = None,
) -> "Engine":
    """Open a model by name, alias or folder; the default one, if none is named.

    The default model is fetched and converted if it is not here yet. RequestError if there is none
    of that name, ModelError if it cannot be used.
    """
    backend = LocalBackend(config, runner)
    return backend.load(backend.resolve(model))


def open_model(path: Path) -> ModelFolder:
    """Open a model where it was found: its folder, or a graph that another tool exported."""
    if is_export(path) and not has_file(path, MANIFEST):
        return open_export(path)
    return open_folder(path)


def open_engine(folder: ModelFolder, config: EngineConfig, runner: RunnerConfig) -> "Engine":
    """Open the graph and the tokenizer of a model folder behind an engine."""
    # A finished job, which opens no engine, is not to wait for the runtime.
    from aobatch.engine.engine import Engine
    from aobatch.models.tokenizer import load_tokenizer

    config = replace(config, num_lanes=min(config.num_lanes, runner.threads))
    opened = open_runner(folder, runner, config.num_lanes)
    return Engine(opened, load_tokenizer(folder), limits_of(folder.manifest), config)


def open_runner(folder: ModelFolder, config: RunnerConfig, num_lanes: int = 1) -> "ModelRunner":
    """Open a model folder's graph with the runner that it needs, to be used by so many lanes."""
    from aobatch.runners.foreign import ExportedRunner
    from aobatch.runners.onnx import OnnxRunner

    graph, threads = folder.graph(config.kv_cache_dtype), session_threads(config.threads, num_lanes)
    if isinstance(folder, ExportedFolder):
        return ExportedRunner(graph, threads, folder.description.hints)
    return OnnxRunner(graph, threads, folder.manifest.graph_sizes)


def limits_of(manifest: Manifest) -> "ModelLimits":
    """Say which requests a model can take."""
    from aobatch.engine.preparation import ModelLimits

    return ModelLimits(
        manifest.vocab_size,
        manifest.context_length,
        manifest.eos_token_ids,
        manifest.document_start_token_id,
        manifest.adds_document_start,
        manifest.infill_token_ids,
    )


def fingerprint(folder: ModelFolder, cache_dtype: CacheDtype = "fp32") -> str:
    """Name weights, precision, scales of the cache and runtime, as system_fingerprint does."""
    manifest = folder.manifest
    scales = [] if cache_dtype == "fp32" else [manifest.int8_cache.digest]
    parts = [manifest.digest, manifest.precision, version("onnxruntime"), *scales]
    return f"fp_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"
