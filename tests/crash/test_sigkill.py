"""Laws of jobs that are killed: nothing is lost, doubled, computed again or half there."""

import itertools
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Watch, run_reference
from kill_cycles import kill_until_done
from request_mix import mixed_lines

from aobatch.models.store.folder import ModelFolder

SHAPES = {
    "short lines": lambda: mixed_lines(280, 12, num_bad=300),
    "long lines": lambda: mixed_lines(40, 300),
}
"""Jobs that commit because there are many results, and because time goes by."""


@pytest.mark.parametrize(
    "num_kills",
    [pytest.param(60, id="short"), pytest.param(500, id="long", marks=pytest.mark.long)],
)
def test_killed_jobs_lose_nothing(
    tmp_path: Path, tiny_int8: ModelFolder, tell: Callable[[str], None], num_kills: int
) -> None:
    """Killed at any instant, each job ends with an uninterrupted one's bytes, nothing done twice.

    Two jobs of different shapes at a time, of which every other replaces an old output.
    """
    with ThreadPoolExecutor(len(SHAPES)) as threads:
        killed = [
            threads.submit(_kill_jobs, tmp_path / shape, shape, tiny_int8.path, num_kills // 2)
            for shape in SHAPES
        ]
    kills = sum((future.result() for future in killed), Counter())

    tell(f"SIGKILL: {kills.total()} kills {dict(kills)}: nothing lost, doubled, redone, half there")
    assert kills.total() >= num_kills
    assert kills["publish"] >= num_kills / 20


def _kill_jobs(folder: Path, shape: str, model: Path, num_kills: int) -> Counter[str]:
    """Kill jobs of a shape until there were so many kills."""
    draw, lines = random.Random(shape), SHAPES[shape]()
    reference = run_reference(_new_job(folder / "reference", lines, model))
    kills: Counter[str] = Counter()
    numbers = itertools.count()
    while kills.total() < num_kills:
        number = next(numbers)
        job = _new_job(folder / str(number), lines, model)
        watch = Watch(job, reference, b"old\n" if number % 2 else None)
        kills += kill_until_done(watch, draw, num_kills - kills.total())
    return kills


def _new_job(folder: Path, lines: bytes, model: Path) -> CrashJob:
    folder.mkdir(parents=True)
    job = CrashJob(folder, "local", ("--model", str(model)))
    job.source.write_bytes(lines)
    return job
