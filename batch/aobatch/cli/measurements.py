"""Everything that `aobatch bench` measures, in rounds."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from aobatch.engine.config import EngineConfig
from aobatch.executors.local import LocalBackend, default_kv_cache_bytes, open_runner
from aobatch.job.benchmark import KINDS, JobSpeed, benchmark_job
from aobatch.job.plan import Speed as MachineSpeed
from aobatch.models.foreign import ExportedFolder
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import session_threads, with_siblings
from aobatch.runners.benchmark import BATCHES, PROMPTS, Speed, decode_speed, prefill_speed
from aobatch.runners.ceiling import Ceiling
from aobatch.sampling.benchmark import SamplerSpeed, benchmark_sampler

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The median of each figure over the rounds."""

    model: str
    precision: str
    threads: int
    jobs: list[JobSpeed]
    ceilings: list[tuple[int, float]]
    """Rows of a step and its new tokens a second, if it were matrix products alone."""
    speeds: list[Speed]
    samplers: list[SamplerSpeed]

    @property
    def speed(self) -> MachineSpeed:
        """What a guess of a job's time needs: prompts read apart, and decoding as in a job."""
        prefills = [s.tokens_per_second for s in self.speeds if s.phase == "prefill"]
        decodes = [s.tokens_per_second for s in self.speeds if s.phase == "decode"]
        return MachineSpeed(max(prefills), max(decodes), "bench", time.strftime("%Y-%m-%d"))


def measure(
    folder: ModelFolder,
    threads: int,
    rounds: int,
    job: Path | None,
    progress: Callable[[str, int, int], None],
) -> Measurements:
    """Measure jobs first, whose peak of memory nothing else is to raise, then all in turn."""
    config = EngineConfig(kv_cache_bytes=default_kv_cache_bytes())
    lanes = min(config.num_lanes, threads)
    backend = LocalBackend(config, threads, lambda *_: None)
    jobs: list[list[JobSpeed]] = []
    others: list[tuple[list[tuple[int, float]], list[Speed]]] = []
    kinds = [job.name] if job else list(KINDS)
    parts: _Parts | None = None
    for index in range(rounds):
        progress("measuring rounds", index, rounds)
        jobs.append([benchmark_job(backend, folder.path, lanes, kind, job) for kind in kinds])
        parts = parts or _Parts(folder, threads, lanes)
        others.append((parts.ceilings(), parts.speeds()))
    progress("measuring rounds", rounds, rounds)
    return Measurements(
        model=folder.manifest.name,
        precision=folder.manifest.precision,
        threads=threads,
        jobs=_median_jobs(jobs),
        ceilings=_medians([ceilings for ceilings, _ in others], lambda ceiling: ceiling[1]),
        speeds=_medians([speeds for _, speeds in others], lambda speed: speed.seconds),
        samplers=list(benchmark_sampler()),
    )


class _Parts:
    """The parts of a job, open side by side."""

    def __init__(self, folder: ModelFolder, threads: int, lanes: int) -> None:
        # Products of graphs that other tools wrote have other names and shapes.
        is_ours = not isinstance(folder, ExportedFolder)
        self._ceiling = Ceiling(folder.graph(), threads, lanes) if is_ours else None
        runner = open_runner(folder, "fp32", session_threads(threads, lanes))
        self._runners = with_siblings(runner, lanes)

    def ceilings(self) -> list[tuple[int, float]]:
        if self._ceiling is None:
            return []
        batches = [batch for batch in BATCHES if batch >= len(self._runners)]
        return [(batch, self._ceiling.tokens_per_second(batch)) for batch in batches]

    def speeds(self) -> list[Speed]:
        decodes = [decode_speed(self._runners, batch) for batch in BATCHES]
        return decodes + [prefill_speed(self._runners, *prompts) for prompts in PROMPTS]


def _median_jobs(rounds: Sequence[Sequence[JobSpeed]]) -> list[JobSpeed]:
    """Take medians, but the first round's peaks: later jobs share the process with the parts."""
    medians = _medians(rounds, lambda job: job.run_seconds)
    both = zip(medians, rounds[0], strict=True)
    return [replace(job, peak_bytes=first.peak_bytes) for job, first in both]


def _medians(rounds: Sequence[Sequence[Item]], size: Callable[[Item], float]) -> list[Item]:
    """Take of each figure the round that lies in the middle."""
    columns = [sorted(column, key=size) for column in zip(*rounds, strict=True)]
    return [column[(len(column) - 1) // 2] for column in columns]
