"""Requests computed in this process: models opened behind an engine, within the memory there is."""

import hashlib
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, TypeVar

import msgspec

from aobatch.api.request import Request
from aobatch.engine.config import EngineConfig
from aobatch.errors import ModelError
from aobatch.executors import Executor, ModelIdentity, Statistics
from aobatch.kernels import sources_digest
from aobatch.models import Progress
from aobatch.models.foreign import ExportedFolder
from aobatch.models.store.catalogue import ensure, find_card, find_ready, resolve
from aobatch.models.store.folder import DATA, FUSED_GRAPH, Manifest, ModelFolder
from aobatch.models.store.locate import open_model
from aobatch.runners import RunnerConfig, session_threads
from aobatch.runners.choice import KernelChoice, choose_kernels

if TYPE_CHECKING:
    from aobatch.engine.engine import Engine
    from aobatch.engine.preparation import ModelLimits
    from aobatch.engine.sequence import Result
    from aobatch.engine.streaming import Listener
    from aobatch.runners import ModelRunner


class LocalBackend:
    """Models of the catalogue on this machine."""

    survives_requests = False

    def __init__(
        self,
        config: EngineConfig | None = None,
        runner: RunnerConfig | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Take half of the free memory and all cores, if nothing else is said."""
        self.config = config or EngineConfig(kv_cache_bytes=default_kv_cache_bytes())
        self.runner = runner or RunnerConfig()
        self._progress = progress or (lambda *_: None)

    @property
    def settings(self) -> Mapping[str, object]:
        """Those options that shape results: neither batch size nor threads do."""
        config = self.config
        return {
            "seed": config.seed,
            "clamp_max_tokens": config.clamp_max_tokens,
            "logprobs_mode": config.logprobs_mode,
            **({"chat_format": config.chat_format} if config.chat_format else {}),
        }

    def resolve(self, name: str | None, began: str = "") -> ModelIdentity:
        """Find a model; the default one is fetched and converted the first time.

        Of the kernels that compute it, those are chosen that have the fingerprint `began`, where
        the configuration leaves that open.
        """
        card = find_card(name)
        if card is not None and card.default:
            folder = pull(card.name, self._progress)
        else:
            folder = resolve(name)
        manifest, choice = folder.manifest, _kernels_of(folder, self.runner, began)
        return ModelIdentity(
            manifest.name,
            fingerprint(folder, choice),
            folder.path,
            manifest.precision,
            choice.kernels,
            choice.cache_dtype,
            choice.lack,
        )

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Load a model; ModelError if it cannot be used."""
        yield LocalExecutor(self.load(model))

    def load(self, model: ModelIdentity) -> "Engine":
        """Open a model behind an engine."""
        folder = open_model(model.path)
        stage = f"opening {folder.manifest.source} of {folder.manifest.name}"
        is_export = isinstance(folder, ExportedFolder)
        if is_export:  # which of a folder's graphs it is was chosen, and trying it takes a while
            self._progress(stage, 0, 1)
        runner = replace(self.runner, kernels=model.kernels, kv_cache_dtype=model.kv_cache_dtype)
        compiles = self.runner.kernels != "stock"
        engine = interruptible(lambda: open_engine(folder, self.config, runner, compiles=compiles))
        if is_export:
            self._progress(stage, 1, 1)
        return engine

    def __reduce__(self) -> tuple[object, ...]:
        # Another process opens models that are there already, so it has nothing to show.
        return LocalBackend, (self.config, self.runner)


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
    def statistics(self) -> Statistics:
        """What the engine counted so far."""
        return Statistics(engine=self._engine.statistics)


def pull(name: str | None, progress: Progress, precision: str | None = None) -> ModelFolder:
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

    The default model is fetched and converted if it is not here yet. ModelError if there is
    none of that name, or it cannot be used.
    """
    backend = LocalBackend(config, runner)
    return backend.load(backend.resolve(model))


def open_engine(
    folder: ModelFolder, config: EngineConfig, runner: RunnerConfig, *, compiles: bool = True
) -> "Engine":
    """Open the graph and the tokenizer of a model folder behind an engine.

    Its sampler computes the same bits with compiled code and without.
    """
    # A finished job, which opens no engine, is not to wait for the runtime.
    from aobatch.engine.engine import Engine
    from aobatch.kernels.blocks import fastest_blocks
    from aobatch.models.tokenizer import load_tokenizer
    from aobatch.sampling.blocks import Blocks

    config = replace(config, num_lanes=num_lanes(folder, config, runner))
    opened = open_runner(folder, runner, config.num_lanes)
    blocks_of = fastest_blocks() if compiles else Blocks
    return Engine(opened, load_tokenizer(folder), limits_of(folder.manifest), config, blocks_of)


_LARGE_WEIGHTS = 512 * 2**20


def num_lanes(folder: ModelFolder, config: EngineConfig, runner: RunnerConfig) -> int:
    """Say how many lanes a model is decoded in.

    Each step of a lane reads all weights. Those of a large model take longer to read than what
    lanes do side by side saves, so that all threads work at one batch of it.
    """
    stored = folder.manifest.files.get(DATA)
    is_large = stored is not None and stored.bytes >= _LARGE_WEIGHTS
    return 1 if is_large else min(config.num_lanes, runner.threads)


def open_runner(folder: ModelFolder, config: RunnerConfig, num_lanes: int = 1) -> "ModelRunner":
    """Open a model folder's graph with the runner that it needs, to be used by so many lanes."""
    from aobatch.runners.foreign import ExportedRunner
    from aobatch.runners.fused import FusedRunner
    from aobatch.runners.onnx import OnnxRunner

    choice, threads = choose_kernels(folder, config), session_threads(config.threads, num_lanes)
    if isinstance(folder, ExportedFolder):
        return ExportedRunner(folder.graph, threads, folder.description.hints)
    sizes = folder.manifest.graph_sizes
    if choice.kernels == "fused":
        return FusedRunner(folder.fused_graph, threads, sizes, choice.cache_dtype)
    return OnnxRunner(folder.graph, threads, sizes)


def limits_of(manifest: Manifest) -> "ModelLimits":
    """Take from a model's description which requests it can answer."""
    from aobatch.engine.preparation import ModelLimits

    return msgspec.convert(manifest, ModelLimits, from_attributes=True)


def fingerprint(folder: ModelFolder, choice: KernelChoice) -> str:
    """Name weights, precision, runtime and operators, as system_fingerprint does."""
    manifest = folder.manifest
    parts = [manifest.digest, manifest.precision, version("onnxruntime")]
    if choice.kernels == "fused":
        parts += [manifest.files[FUSED_GRAPH].sha256, sources_digest(), choice.cache_dtype]
    return f"fp_{hashlib.sha256('|'.join(parts).encode()).hexdigest()[:12]}"


def _kernels_of(folder: ModelFolder, config: RunnerConfig, began: str) -> KernelChoice:
    """Choose the kernels of a model; ModelError if those that an earlier run had are not here."""
    choice = choose_kernels(folder, config)
    if not began or config.kernels != "auto" or fingerprint(folder, choice) == began:
        return choice
    if choice.kernels == "fused":
        stock = KernelChoice("stock", "fp32")
        is_free = config.kv_cache_dtype in {None, "fp32"}
        return stock if is_free and fingerprint(folder, stock) == began else choice
    fused = KernelChoice("fused", config.kv_cache_dtype or "int8")
    if choice.lack and fingerprint(folder, fused) == began:
        message = (
            f"the job was begun with fused operators, which cannot be had here: {choice.lack}; go "
            "on where it began, or begin anew with --restart"
        )
        raise ModelError(message)
    return choice


T = TypeVar("T")
NATIVE = "native"
"""The name of threads that may be left to themselves in native code."""


def interruptible(function: Callable[[], T]) -> T:
    """Call a function in a thread of its own and give or raise what it does.

    Python hears signals between two steps of the main thread, which must not be in native code
    then. After an exception from a signal the thread is left to itself.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(function())
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            outcome.set_exception(error)

    Thread(target=work, name=NATIVE, daemon=True).start()
    return outcome.result()


MEMINFO = Path("/proc/meminfo")
_GROUPS = Path("/sys/fs/cgroup")
GROUP_LIMITS = (
    (_GROUPS / "memory.max", _GROUPS / "memory.current"),
    (_GROUPS / "memory/memory.limit_in_bytes", _GROUPS / "memory/memory.usage_in_bytes"),
)
"""Limit and use of the control group that a container sees as its own, version 2 and 1."""
_UNLIMITED = 2**60
"""Version 1 writes a limit beyond all memory where there is none."""


def default_kv_cache_bytes() -> int:
    """Say what keys and values may take where nobody says it: half of what is free."""
    return available_memory() // 2


def available_memory() -> int:
    """Count the bytes that push nothing else out of memory, within a container's limit."""
    try:
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except OSError:
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return min([free, *(max(0, limit - used) for limit, used in _group_limits())])


def container_limit() -> int | None:
    """Read how many bytes a container allows its processes together; None without a limit."""
    return min((limit for limit, _ in _group_limits()), default=None)


def _group_limits() -> Iterator[tuple[int, int]]:
    for files in GROUP_LIMITS:
        with suppress(OSError, ValueError):  # there is no such file, or it says `max`
            limit, used = (int(file.read_text()) for file in files)
            if limit < _UNLIMITED:
                yield limit, used
