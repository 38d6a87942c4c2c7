"""Laws of jobs that are killed: nothing is lost, doubled, computed again or half there."""

import itertools
import random
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, Watch, run_reference
from death import KINDS
from kill_cycles import kill_until_done
from request_mix import mixed_lines

from aobatch.models.store.folder import ModelFolder

SHAPES = {
    "short lines": lambda: mixed_lines(280, 12, num_bad=300),
    "long lines": lambda: mixed_lines(40, 300),
}
"""Jobs that commit because there are many results, and because time goes by."""
LINES = mixed_lines(60, 12)
OLD = b"old\n"


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run a job of the fake backend to its end."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job"))


def new_job(folder: Path, lines: bytes = LINES, model: tuple[str, ...] = ()) -> CrashJob:
    """Give a job of a model, or of the fake backend, which needs some milliseconds a result."""
    folder.mkdir(parents=True)
    job = CrashJob(folder, "local" if model else "0.005", model)
    job.source.write_bytes(lines)
    return job


@pytest.mark.parametrize("place", ["ahead", pytest.param("behind", marks=pytest.mark.long)])
@pytest.mark.parametrize("kind", KINDS)
def test_death_at_any_point_loses_nothing(
    memory: Path, reference: Reference, kind: str, place: str
) -> None:
    """Ahead of each commit, fsync and replace of a run and behind it, the next run goes on."""
    for number in itertools.count():
        watch = Watch(new_job(memory / str(number)), reference, OLD if number % 2 else None)
        if watch.old is not None:
            watch.job.output.write_bytes(watch.old)
        code = replace(watch.job, death=f"{kind} {number} {place}").run()
        if code == 0:
            break
        assert code == -signal.SIGKILL, watch.job.messages.read_text()
        watch.check_death(0)
        start = watch.job.log_size()
        assert watch.job.run() == 0, watch.job.messages.read_text()
        watch.check_end(start)
    assert number > 1


def test_killed_jobs_lose_nothing(
    memory: Path, reference: Reference, tell: Callable[[str], None]
) -> None:
    """Killed at any instant, a job ends with an uninterrupted one's bytes, nothing done twice."""
    kills = kill_jobs(memory, new_job, reference, 12)

    tell(f"SIGKILL: {kills.total()} kills {dict(kills)}: nothing lost, doubled, redone, half there")


@pytest.mark.long
def test_killed_jobs_of_a_model_lose_nothing(
    tmp_path: Path, tiny_int8: ModelFolder, tell: Callable[[str], None]
) -> None:
    """Two jobs of different shapes at a time lose nothing either."""
    model = ("--model", str(tiny_int8.path))

    def kill_shape(shape: str) -> Counter[str]:
        lines = SHAPES[shape]()
        reference = run_reference(new_job(tmp_path / shape / "reference", lines, model))
        make = partial(new_job, lines=lines, model=model)
        return kill_jobs(tmp_path / shape, make, reference, 250)

    with ThreadPoolExecutor(len(SHAPES)) as threads:
        kills = sum(threads.map(kill_shape, SHAPES), Counter())
    tell(f"SIGKILL: {kills.total()} kills {dict(kills)}: nothing lost, doubled, redone, half there")


def kill_jobs(
    folder: Path, make: Callable[[Path], CrashJob], reference: Reference, num_kills: int
) -> Counter[str]:
    """Kill jobs, of which every other replaces an old output, until there were so many kills."""
    draw, kills = random.Random(num_kills), Counter[str]()
    for number in itertools.count():
        watch = Watch(make(folder / str(number)), reference, OLD if number % 2 else None)
        kills += kill_until_done(watch, draw, num_kills - kills.total())
        if kills.total() >= num_kills:
            return kills
    raise AssertionError
