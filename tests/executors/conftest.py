"""A Ray for the tests of executors, and jobs that it computes."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from aobatch.engine.config import EngineConfig
from aobatch.executors.local import LocalBackend
from aobatch.executors.ray.backend import RayBackend, RayOptions
from aobatch.executors.ray.cluster import connected
from aobatch.executors.ray.pool import Member, Pool

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "crash")]


@pytest.fixture(scope="session")
def ray() -> Iterator[ModuleType]:
    """Start a Ray of two CPUs, as a job does it, for all tests of this process."""
    with connected(2) as module:
        yield module


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> list[Member]:
    """Give a list of the workers that pools start from now on."""
    started: list[Member] = []
    start = Pool.start

    def noted(pool: Pool) -> Member:
        started.append(start(pool))
        return started[-1]

    monkeypatch.setattr(Pool, "start", noted)
    return started


@pytest.fixture
def warnings() -> list[str]:
    """Give a list of what backends warn of."""
    return []


@pytest.fixture
def opened(ray: ModuleType, warnings: list[str]) -> object:
    """Give a function that opens a backend of so many workers."""

    @contextmanager
    def open_backend(num_workers: int, slots: int = 16) -> Iterator[RayBackend]:
        config = EngineConfig(max_num_seqs=slots, num_lanes=1)
        local = LocalBackend(config, 1)
        options = RayOptions(num_workers, 1, keeps_cache_bytes=False, warn=warnings.append)
        with RayBackend(local, config, options) as backend:
            yield backend

    return open_backend
