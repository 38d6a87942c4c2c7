"""What executors share, each a module that computes requests in a place of its own."""

import re
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from msgspec import convert

from aobatch.api.request import Request
from aobatch.engine.config import EngineStatistics
from aobatch.kernels import CacheDtype, Kernels

if TYPE_CHECKING:  # a finished job is told so without loading numpy
    from aobatch.engine.sequence import Result
    from aobatch.engine.streaming import Listener


def package_version() -> str:
    """The version of this package; empty if it is not installed."""
    try:
        return version("aobatch")
    except PackageNotFoundError:
        return ""


@dataclass(slots=True)
class PoolStatistics:
    """What became of the workers of a cluster and their requests."""

    workers_started: int = 0
    workers_lost: int = 0
    requests_returned: int = 0
    """Requests that were taken back from a worker, begun or not."""
    duplicates_dropped: int = 0
    """Results of requests that were answered already."""


@dataclass(frozen=True, slots=True)
class WorkerStatistics:
    """What one worker of a cluster did."""

    sampled_tokens: int = 0
    seconds: float = 0.0
    """Since it had opened the model."""


_WORKER = re.compile(r"worker_(\d+)_(\w+)")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What an executor counted, or all runs of a job."""

    runs: int = 0
    wall_seconds: float = 0.0
    """Of all runs."""
    model_seconds: float = 0.0
    """Finding, fetching and converting models."""
    load_seconds: float = 0.0
    """Opening them."""
    write_seconds: float = 0.0
    """Writing results, while others are computed."""
    engine: EngineStatistics = field(default_factory=EngineStatistics)
    pool: PoolStatistics = field(default_factory=PoolStatistics)
    workers: Mapping[int, WorkerStatistics] = field(default_factory=dict)
    """The first workers of a cluster, by number."""

    @classmethod
    def of(cls, numbers: Mapping[str, float]) -> "Statistics":
        """Read what `numbers` wrote, perhaps in several parts that were added up."""
        workers: dict[int, dict[str, float]] = {}
        for name, value in numbers.items():
            if found := _WORKER.fullmatch(name):
                workers.setdefault(int(found[1]), {})[found[2]] = value
        return convert({**numbers, "engine": numbers, "pool": numbers, "workers": workers}, cls)

    def numbers(self) -> dict[str, int | float]:
        """What was counted by name, as ledgers and reports keep it, without parts that are 0."""
        own = asdict(self)
        parts, workers = (own.pop("engine"), own.pop("pool")), own.pop("workers")
        numbers = {name: value for name, value in own.items() if value}
        for part in parts:
            numbers |= part if any(part.values()) else {}
        for number, worker in workers.items():
            numbers |= {f"worker_{number}_{name}": value for name, value in worker.items()}
        return numbers

    def __add__(self, other: "Statistics") -> "Statistics":
        total = Counter(self.numbers())
        total.update(other.numbers())
        return Statistics.of(total)

    @property
    def job_seconds(self) -> float:
        """Wall time without fetching models, which says nothing of the job's speed."""
        return self.wall_seconds - self.model_seconds


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """A model that can be opened; two that are equal give the same results."""

    name: str
    fingerprint: str
    """Names weights, precision and runtime; it stands in every response."""
    path: Path
    precision: str = ""
    """How its weights are kept; empty if that is not known."""
    kernels: Kernels = "stock"
    kv_cache_dtype: CacheDtype = "fp32"
    lack: str = ""
    """Why fused operators, which it has a graph for, cannot be had on this machine."""

    @property
    def warning(self) -> str:
        """What users are to hear of how it is computed; perhaps nothing."""
        if not self.lack:
            return ""
        return f"{self.name} runs without fused operators, half as fast: {self.lack}"


class Executor(Protocol):
    """One open model."""

    def run(
        self, requests: Iterable[Request], listener: "Listener | None" = None
    ) -> "Generator[Result, None, None]":
        """Compute every request, in any order; pull requests only as they are needed.

        Closing the generator stops the computation. The listener gets the pieces of requests that
        ask for a stream, ahead of their results.
        """
        ...

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds so far."""
        ...


class Backend(Protocol):
    """A place that finds models and opens them."""

    @property
    def settings(self) -> Mapping[str, object]:
        """Those of its options that shape results."""
        ...

    @property
    def survives_requests(self) -> bool:
        """Whether this process lives on, whatever a request does to the one that computes it."""
        ...

    def resolve(self, name: str | None, began: str = "") -> ModelIdentity:
        """Find a model, None being the default one; ModelNotFoundError if there is none.

        One that can be computed in several ways is to be computed in that of the fingerprint
        `began`, if the options allow it.
        """
        ...

    def open(self, model: ModelIdentity) -> AbstractContextManager[Executor]:
        """Make a model ready to compute; ModelError if it cannot be used."""
        ...
