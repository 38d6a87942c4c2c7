"""A Ray for the tests of executors, and jobs that it computes."""

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import pytest
from waiting import HANG_SECONDS

from aobatch.executors.ray import driver
from aobatch.executors.ray.cluster import connected
from aobatch.executors.ray.pool import Member, Pool
from aobatch.models.store.folder import ModelFolder

if TYPE_CHECKING:
    from ray_jobs import Place


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
def place(
    ray: ModuleType, tmp_path: Path, tiny_fp32: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> "Place":
    """Give a job of every parameter, and a place to run it in."""
    from ray_jobs import Place, write_input

    # A busy machine warns of workers that are late, and takes those that are slow for lost.
    for name in ("EARLY_SECONDS", "SILENCE_SECONDS"):
        monkeypatch.setattr(driver, name, HANG_SECONDS)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    return Place(tmp_path, tiny_fp32.path, write_input(tmp_path / "in.jsonl", 80))
