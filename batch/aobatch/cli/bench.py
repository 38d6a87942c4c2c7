"""`aobatch bench`: how fast a model is on this machine, and where the time goes."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TypedDict, TypeVar, Unpack

import click

from aobatch.bench.jobs import KINDS, JobSpeed, benchmark_job
from aobatch.bench.parts import (
    BATCHES,
    PROMPTS,
    Ceiling,
    SamplerSpeed,
    Speed,
    benchmark_sampler,
    decode_speed,
    prefill_speed,
)
from aobatch.cli.command import Command, exit_codes
from aobatch.cli.console import show
from aobatch.cli.ending import interruptible
from aobatch.cli.options import model_names, threads_option
from aobatch.engine.config import EngineConfig
from aobatch.executors.local import LocalBackend, default_kv_cache_bytes, open_runner
from aobatch.job.plan import Speed as MachineSpeed
from aobatch.models.foreign import ExportedFolder
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig

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
    backend = LocalBackend(config, RunnerConfig(threads))
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
        runner = open_runner(folder, RunnerConfig(threads), lanes)
        self._runners = [runner, *(runner.sibling() for _ in range(1, lanes))]

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


HELP = """Measure jobs, decode steps and prefill, or files alone.

\b
Examples:
  aobatch bench
  aobatch bench --job jobs/poems.jsonl --rounds 1 --json
  aobatch bench --files

The ceiling is what this machine would reach if a model were its matrix products alone. All
figures are medians of rounds in which everything is measured in turn, since machines drift.
"""


class BenchOptions(TypedDict):
    """What the command line gives."""

    model: str | None
    job: Path | None
    threads: int
    rounds: int
    files_alone: bool
    as_json: bool


@click.command(
    cls=Command, help=HELP, exit_codes=exit_codes({0: "the figures are printed"}, 65, 69, 130, 143)
)
@click.option(
    "-m",
    "--model",
    metavar="NAME",
    shell_complete=model_names,
    help="Which model; the default one if not given.",
)
@click.option(
    "--job",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Measure this job instead of 256 requests of 64 new tokens.",
)
@threads_option
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    default=3,
    show_default=True,
    help="How often everything is measured in turn; medians count.",
)
@click.option(
    "--files",
    "files_alone",
    is_flag=True,
    help="Measure reading and writing 100,000 rows of each format instead, without a model.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(**options: Unpack[BenchOptions]) -> None:
    """Measure jobs, decode steps and prefill, or files alone."""
    if options["files_alone"]:
        _bench_files(as_json=options["as_json"])
    else:
        _bench_model(options)


def _bench_files(*, as_json: bool) -> None:
    from aobatch.bench.jobs import benchmark_files
    from aobatch.cli.progress import stage_progress

    with interruptible(), stage_progress(is_quiet=as_json) as stages:
        speeds = benchmark_files(stages)
    if as_json:
        show(json.dumps({"files": [asdict(speed) for speed in speeds]}, indent=2))
        return
    show(f"{'file':<10} {'requests read/s':>15} {'results written/s':>17}")
    for speed in speeds:
        read, written = speed.requests_per_second, speed.results_per_second
        show(f"{speed.suffix:<10} {read:>15,.0f} {written:>17,.0f}")


def _bench_model(options: BenchOptions) -> None:
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.local import pull
    from aobatch.job.plan import note_speed

    with interruptible(), stage_progress(is_quiet=options["as_json"]) as stages:
        folder = pull(options["model"], stages)
        threads = options["threads"]
        figures = measure(folder, threads, options["rounds"], options["job"], stages)
    note_speed(folder, "fp32", threads, figures.speed)
    if options["as_json"]:
        show(json.dumps(_as_data(figures), indent=2))
    else:
        _print(figures)


def _as_data(figures: "Measurements") -> dict[str, object]:
    jobs = [asdict(job) | {"tokens_per_second": job.tokens_per_second} for job in figures.jobs]
    speeds = [asdict(s) | {"tokens_per_second": s.tokens_per_second} for s in figures.speeds]
    ceilings = [{"num_sequences": n, "tokens_per_second": t} for n, t in figures.ceilings]
    samplers = [asdict(sampler) for sampler in figures.samplers]
    facts = {"model": figures.model, "precision": figures.precision, "threads": figures.threads}
    return facts | {"jobs": jobs, "ceilings": ceilings, "speeds": speeds, "samplers": samplers}


def _print(figures: "Measurements") -> None:
    show(f"{figures.model}, {figures.precision}, {figures.threads} threads\n")
    for job in figures.jobs:
        show(
            f"job of {job.num_requests:,} requests, {job.new_tokens:,} new tokens, {job.kind}: "
            f"{job.tokens_per_second:,.0f} tokens/s\n"
            f"  {job.load_seconds:.2f} s to open the model, {job.run_seconds:.2f} s to compute, "
            f"{job.publish_seconds:.2f} s for all else, {job.peak_bytes / 1e6:,.0f} MB at most\n"
            f"  lanes: {job.model_share:.1%} in the model, {job.sampling_share:.1%} sampling, "
            f"{job.bookkeeping_share:.1%} bookkeeping, {job.idle_share:.1%} idle; "
            f"writing {job.writing_share:.1%} beside them; slots {job.occupancy:.1%} in use"
        )
    show(f"\n{'phase':<8} {'sequences':>9} {'tokens':>6} {'ms':>8} {'tokens/s':>9}")
    for count, rate in figures.ceilings:
        ms = count / rate * 1e3
        show(f"{'ceiling':<8} {count:>9} {1:>6} {ms:>8.1f} {rate:>9,.0f}")
    for speed in figures.speeds:
        show(
            f"{speed.phase:<8} {speed.num_sequences:>9} {speed.num_tokens:>6} "
            f"{speed.seconds * 1e3:>8.1f} {speed.tokens_per_second:>9,.0f}"
        )
    show("\nsampling a step of 64 rows × 49,152 logits, one lane")
    for sampler in figures.samplers:
        show(f"{sampler.case:<42} {sampler.seconds * 1e3:>6.2f} ms")
