"""Models of the catalogue, computed by workers of Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from types import ModuleType

from aobatch.executors import Executor, ModelIdentity
from aobatch.executors.local import LocalBackend
from aobatch.executors.ray.cluster import connected
from aobatch.executors.ray.distribution import model_digest
from aobatch.executors.ray.driver import CHUNK, DriverConfig, RayExecutor
from aobatch.executors.ray.pool import Pool
from aobatch.executors.ray.worker import Opener
from aobatch.runners import num_cores

MAX_IN_FLIGHT = 100_000
"""Requests that the driver remembers at once, unless slots need more."""


@dataclass(frozen=True, slots=True)
class RayOptions:
    """What is asked of the workers."""

    num_workers: int
    threads: int | None
    """CPUs a worker; None: as many as leave room for all workers."""
    keeps_cache_bytes: bool
    """Whether memory for keys and values is as configured, not what a worker's node has."""
    warn: Callable[[str], None]


class RayBackend:
    """The models of a local backend, opened in processes of Ray.

    Ray is started, or joined, when the first model is opened, and left when the `with` block ends.
    """

    survives_requests = True

    def __init__(self, local: LocalBackend, options: RayOptions) -> None:
        self.resolve = local.resolve  # on the driver's machine
        self._local = local
        self._options = options
        self._stack = ExitStack()
        self._ray: ModuleType | None = None

    def __enter__(self) -> "RayBackend":
        return self

    def __exit__(self, *_: object) -> None:
        self._ray = None
        self._stack.close()

    @property
    def settings(self) -> Mapping[str, object]:
        """Those options that shape results, the same as on one machine."""
        return self._local.settings

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Start workers, which open the model each."""
        options, config, ray = self._options, self._local.config, self._connected()
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        own = share(nodes, options.num_workers, options.threads)
        slots = config.max_num_seqs
        config = replace(config, lookahead=min(config.lookahead, slots))
        opener = Opener(
            config,
            replace(self._local.runner, threads=own.cpus),
            own.workers_per_node,
            model_digest(model.path),
            options.keeps_cache_bytes,
        )
        capacity = min(slots + config.lookahead + CHUNK, MAX_IN_FLIGHT // options.num_workers)
        rules = DriverConfig(options.num_workers, slots, max(slots, capacity), options.warn)
        pool = Pool(ray, opener, model, own.cpus)
        try:
            yield RayExecutor(pool, rules)
        finally:
            pool.close()

    def _connected(self) -> ModuleType:
        if self._ray is None:
            options = self._options
            here = share([num_cores()], options.num_workers, options.threads)
            self._ray = self._stack.enter_context(connected(here.cpus * options.num_workers))
        return self._ray

    def __reduce__(self) -> tuple[object, ...]:
        # Another process computes what it is given by itself.
        return self._local.__reduce__()


@dataclass(frozen=True, slots=True)
class Share:
    """What a worker takes of its node."""

    cpus: int
    workers_per_node: int
    """On the largest node, at most."""


def share(node_cpus: Sequence[float], num_workers: int, cpus: int | None = None) -> Share:
    """Give each worker as many CPUs as leave room for all workers; `cpus`, if it is given."""
    sizes = [int(size) for size in node_cpus if size >= 1] or [1]
    if cpus is None:
        fitting = range(max(sizes), 0, -1)
        cpus = next((c for c in fitting if sum(size // c for size in sizes) >= num_workers), 1)
    return Share(cpus, max(1, min(num_workers, max(sizes) // cpus)))
