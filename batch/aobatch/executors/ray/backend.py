"""Models of the catalogue, computed by workers of Ray."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
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


class RayBackend:
    """The models of a local backend, opened in processes of Ray.

    Ray is started, or joined, when the first model is opened, and left when the `with` block ends.
    """

    survives_requests = True

    def __init__(
        self,
        local: LocalBackend,
        num_workers: int,
        warn: Callable[[str], None],
        *,
        threads: int | None = None,
        keeps_cache_bytes: bool = False,
    ) -> None:
        """Take as many CPUs a worker as leave room for all, unless `threads` says how many.

        Memory for keys and values is what a worker's node has, unless it is kept as configured.
        """
        self.resolve = local.resolve  # on the driver's machine
        self._local = local
        self._num_workers = num_workers
        self._warn = warn
        self._threads = threads
        self._keeps_cache_bytes = keeps_cache_bytes
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
        config, ray, workers = self._local.config, self._connected(), self._num_workers
        nodes = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["Alive"]]
        cpus, workers_per_node = share(nodes, workers, self._threads)
        slots = config.max_num_seqs
        config = replace(config, lookahead=min(config.lookahead, slots))
        opener = Opener(
            config,
            replace(self._local.runner, threads=cpus),
            workers_per_node,
            model_digest(model.path),
            self._keeps_cache_bytes,
        )
        capacity = min(slots + config.lookahead + CHUNK, MAX_IN_FLIGHT // workers)
        driver = DriverConfig(workers, slots, max(slots, capacity), self._warn)
        pool = Pool(ray, opener, model, cpus)
        try:
            yield RayExecutor(pool, driver)
        finally:
            pool.close()

    def _connected(self) -> ModuleType:
        if self._ray is None:
            cpus, _ = share([num_cores()], self._num_workers, self._threads)
            self._ray = self._stack.enter_context(connected(cpus * self._num_workers))
        return self._ray

    def __reduce__(self) -> tuple[object, ...]:
        # Another process computes what it is given by itself.
        return self._local.__reduce__()


def share(node_cpus: Sequence[float], num_workers: int, cpus: int | None = None) -> tuple[int, int]:
    """Give each worker as many CPUs as leave room for all workers, or `cpus`.

    The second number is how many workers the largest node has then, at most.
    """
    sizes = [int(size) for size in node_cpus if size >= 1] or [1]
    if cpus is None:
        fitting = range(max(sizes), 0, -1)
        cpus = next((c for c in fitting if sum(size // c for size in sizes) >= num_workers), 1)
    return cpus, max(1, min(num_workers, max(sizes) // cpus))
