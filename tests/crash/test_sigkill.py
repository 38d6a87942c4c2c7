"""Laws of jobs that are killed: nothing is lost, doubled, computed again or half there."""

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import run_reference
from kill_cycles import kill_until_done
from request_mix import mixed_lines

from aobatch.models.folder import ModelFolder

SHAPES = {
    "short lines": lambda: mixed_lines(320, 16, num_bad=300),
    "long lines": lambda: mixed_lines(80, 300),
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

    num_landed = sum(kills[phase] for phase in ("start-up", "load", "decode", "publish"))
    tell(f"SIGKILL: {num_landed} kills, {dict(kills)}; none lost, doubled, recomputed or partial")
    assert num_landed >= num_kills
    assert kills["publish"] >= num_kills / 20


def _kill_jobs(folder: Path, shape: str, model: Path, num_kills: int) -> Counter[str]:
    """Kill jobs of a shape until there were enough kills."""
    draw = random.Random(shape)
    lines = SHAPES[shape]()
    reference = run_reference(_new_job(folder / "reference", lines, model))
    kills: Counter[str] = Counter()
    while kills["jobs"] == 0 or kills["any"] < num_kills:
        job = _new_job(folder / str(kills["jobs"]), lines, model)
        old = b"old\n" if kills["jobs"] % 2 else None
        kills += kill_until_done(job, reference, draw, old)
        kills["jobs"] += 1
    return kills


def _new_job(folder: Path, lines: bytes, model: Path) -> CrashJob:
    folder.mkdir(parents=True)
    job = CrashJob(folder, "local", ("--model", str(model)))
    job.source.write_bytes(lines)
    return job
