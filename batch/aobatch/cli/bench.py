"""`aobatch bench`: how fast a model is on this machine, and where the time goes."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import TypeVar

import click

from aobatch.arrays import Logits
from aobatch.bench.jobs import KINDS, JobSpeed, benchmark_job
from aobatch.bench.parts import (
    BATCHES,
    MANY_CACHED_TOKENS,
    PROMPTS,
    Ceiling,
    SamplerSpeed,
    Speed,
    benchmark_sampler,
    decode_speed,
    mask_speed,
    model_logits,
    prefill_speed,
)
from aobatch.cli.command import command, exit_codes
from aobatch.cli.console import show, show_json, show_table
from aobatch.cli.ending import interruptible
from aobatch.cli.options import RunnerOptions, option, options
from aobatch.cli.progress import stage_progress
from aobatch.cli.values import AT_LEAST_1, model_names
from aobatch.engine.config import EngineConfig
from aobatch.executors.local import (
    LocalBackend,
    default_kv_cache_bytes,
    num_lanes,
    open_runner,
    pull,
)
from aobatch.job.plan import DecodeStep, note_speed, speed_of_steps
from aobatch.job.plan import Speed as MachineSpeed
from aobatch.kernels import Kernels
from aobatch.kernels.blocks import fastest_blocks
from aobatch.models.foreign import ExportedFolder
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig
from aobatch.runners.choice import choose_kernels
from aobatch.sampling.blocks import Blocks

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Measurements:
    """The median of each figure over the rounds."""

    model: str
    precision: str
    threads: int
    jobs: list[JobSpeed]
    speeds: list[Speed]
    """Of a step if it were matrix products alone, the `ceiling`, of decode steps, of prefill."""
    samplers: list[SamplerSpeed]
    masks: SamplerSpeed | None
    """What a step takes beside them where answers have a shape; None if none can have one."""

    def speed(self, kernels: Kernels, lanes: int, seconds_before: float) -> MachineSpeed:
        """Say what a guess of a job's time needs, of whose lanes there are so many."""
        own = [speed for speed in self.speeds if speed.kernels == kernels]
        prefills = [s.tokens_per_second for s in own if s.phase == "prefill"]
        steps = [
            DecodeStep(max(1, s.num_sequences // lanes), s.cached_tokens, s.seconds)
            for s in own
            if s.phase == "decode"
        ]
        job = next(job for job in reversed(self.jobs) if job.kernels == kernels)
        share = job.sampling_share + job.bookkeeping_share
        return speed_of_steps(
            steps,
            prompt_token=lanes * len(prefills) / sum(prefills),
            drawing=share * lanes * job.run_seconds / max(1, job.new_tokens),
            start=seconds_before + job.load_seconds + job.publish_seconds,
        )


def measure(
    folder: ModelFolder,
    runners: Sequence[RunnerConfig],
    rounds: int,
    job: Path | None,
    progress: Callable[[str, int, int], None],
) -> Measurements:
    """Measure jobs first, whose peak of memory nothing else is to raise, then all in turn.

    `runners` are the ways to compute the model, each with its own kernels.
    """
    config = EngineConfig(kv_cache_bytes=default_kv_cache_bytes())
    threads = runners[0].threads
    lanes = num_lanes(folder, config, runners[0])
    backends = [LocalBackend(config, runner) for runner in runners]
    jobs: list[list[JobSpeed]] = []
    speeds: list[list[Speed]] = []
    kinds = [job.name] if job else list(KINDS)
    parts: list[_Parts] = []
    for index in range(rounds):
        progress("measuring rounds", index, rounds)
        works = product(kinds, backends)
        jobs.append([benchmark_job(b, folder.path, lanes, kind, job) for kind, b in works])
        parts = parts or [_Parts(folder, runner, lanes) for runner in runners]
        speeds.append([*parts[0].ceilings(), *chain(*(part.speeds() for part in parts))])
    progress("measuring rounds", rounds, rounds)
    blocks_of = Blocks if runners[0].kernels == "stock" else fastest_blocks()
    # Later jobs share the process with the parts, so that the first round's peaks count.
    medians = zip(_medians(jobs, lambda job: job.run_seconds), jobs[0], strict=True)
    return Measurements(
        model=folder.manifest.name,
        precision=folder.manifest.precision,
        threads=threads,
        jobs=[replace(median, peak_bytes=first.peak_bytes) for median, first in medians],
        speeds=_medians(speeds, lambda speed: speed.seconds),
        samplers=list(benchmark_sampler(parts[0].logits(), blocks_of)),
        masks=mask_speed(folder),
    )


class _Parts:
    """The parts of a job, open side by side."""

    def __init__(self, folder: ModelFolder, config: RunnerConfig, lanes: int) -> None:
        # Products of graphs that other tools wrote have other names and shapes.
        is_ours = not isinstance(folder, ExportedFolder)
        self._ceiling = Ceiling(folder.graph, config.threads, lanes) if is_ours else None
        self._many_cached = min(MANY_CACHED_TOKENS, folder.manifest.context_length // 2)
        runner = open_runner(folder, config, lanes)
        self._kernels = choose_kernels(folder, config).kernels
        self._runners = [runner, *(runner.sibling() for _ in range(1, lanes))]

    def logits(self) -> Logits:
        return model_logits(self._runners[0])

    def ceilings(self) -> list[Speed]:
        batches = [batch for batch in BATCHES if batch >= len(self._runners)]
        return [self._ceiling.speed(batch) for batch in batches] if self._ceiling else []

    def speeds(self) -> list[Speed]:
        decodes = [decode_speed(self._runners, batch) for batch in BATCHES]
        decodes.append(decode_speed(self._runners, BATCHES[-2], self._many_cached))
        prefills = [prefill_speed(self._runners, *prompts) for prompts in PROMPTS]
        return [replace(speed, kernels=self._kernels) for speed in decodes + prefills]


def _medians(rounds: Sequence[Sequence[Item]], size: Callable[[Item], float]) -> list[Item]:
    """Take of each figure the round that lies in the middle."""
    columns = [sorted(column, key=size) for column in zip(*rounds, strict=True)]
    return [column[(len(column) - 1) // 2] for column in columns]


@options()
class BenchOptions(RunnerOptions):
    """What the command line gives."""

    model: str | None = option(
        None,
        "Which model; the default one if not given.",
        "-m",
        metavar="NAME",
        shell_complete=model_names,
    )
    job: Path | None = option(
        None,
        "Measure this job instead of 256 requests of 64 new tokens.",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
    )
    rounds: int = option(
        3, "How often everything is measured in turn; medians count.", type=AT_LEAST_1
    )
    files_alone: bool = option(
        False,
        "Measure reading and writing 100,000 rows of each format instead, without a model.",
        "--files",
    )
    as_json: bool = option(False, "Print the figures as JSON.", "--json", group="Report")


@command(BenchOptions, exit_codes({0: "the figures are printed"}, 65, 69, 130, 143))
def bench(options: BenchOptions) -> None:
    """Measure jobs, decode steps and prefill, or files alone.

    Examples:
      aobatch bench
      aobatch bench --job jobs/poems.jsonl --rounds 1 --json
      aobatch bench --files

    The ceiling is what this machine would reach if a model were its matrix products alone. All
    figures are medians of rounds in which everything, fused operators and ONNX Runtime's alone, is
    measured in turn, since machines drift.
    """
    if options.files_alone:
        _bench_files(as_json=options.as_json)
    else:
        _bench_model(options)


def _bench_files(*, as_json: bool) -> None:
    from aobatch.bench.jobs import benchmark_files

    with interruptible(), stage_progress(is_quiet=as_json) as stages:
        speeds = benchmark_files(stages)
    if as_json:
        show_json({"files": speeds})
        return
    rows = [
        (speed.suffix, f"{speed.requests_per_second:,.0f}", f"{speed.results_per_second:,.0f}")
        for speed in speeds
    ]
    show_table([("file", "requests read/s", "results written/s"), *rows], "<>")


def _bench_model(options: BenchOptions) -> None:
    with interruptible(), stage_progress(is_quiet=options.as_json) as stages:
        seconds_before = time.process_time()
        folder = pull(options.model, stages)
        runners = _ways(folder, options)
        figures = measure(folder, runners, options.rounds, options.job, stages)
    lanes = num_lanes(folder, EngineConfig(), runners[0])
    for runner in runners:
        kernels = choose_kernels(folder, runner).kernels
        note_speed(folder, runner, figures.speed(kernels, lanes, seconds_before))
    if options.as_json:
        show_json(_as_data(figures))
    else:
        _show(figures)


def _ways(folder: ModelFolder, options: BenchOptions) -> list[RunnerConfig]:
    """Give the ways to compute a model that are asked for, those of all kernels if none is."""
    chosen = options.runner_config()
    is_fused = choose_kernels(folder, chosen).kernels == "fused"
    if chosen.kernels != "auto" or not is_fused:
        return [chosen]
    return [chosen, replace(chosen, kernels="stock", kv_cache_dtype=None)]


def _as_data(figures: Measurements) -> dict[str, object]:
    def with_rate(item: JobSpeed | Speed) -> dict[str, object]:
        return asdict(item) | {"tokens_per_second": item.tokens_per_second}

    ceilings = [s for s in figures.speeds if s.phase == "ceiling"]
    names = ("num_sequences", "tokens_per_second")
    return asdict(figures) | {
        "jobs": [with_rate(job) for job in figures.jobs],
        "ceilings": [{name: getattr(speed, name) for name in names} for speed in ceilings],
        "speeds": [with_rate(speed) for speed in figures.speeds if speed not in ceilings],
    }


def _show(figures: Measurements) -> None:
    show(f"{figures.model}, {figures.precision}, {figures.threads} threads\n")
    for job in figures.jobs:
        show(
            f"job of {job.num_requests:,} requests, {job.new_tokens:,} new tokens, {job.kind}, "
            f"{job.kernels}: {job.tokens_per_second:,.0f} tokens/s\n"
            f"  {job.load_seconds:.2f} s to open the model, {job.run_seconds:.2f} s to compute, "
            f"{job.publish_seconds:.2f} s for all else, {job.peak_bytes / 1e6:,.0f} MB at most\n"
            f"  lanes: {job.model_share:.1%} in the model, {job.sampling_share:.1%} sampling, "
            f"{job.bookkeeping_share:.1%} bookkeeping, {job.idle_share:.1%} idle; "
            f"writing {job.writing_share:.1%} beside them; slots {job.occupancy:.1%} in use"
        )
    show("")
    rows = [
        (
            f"{speed.phase}, {speed.kernels}" if speed.kernels else speed.phase,
            str(speed.num_sequences),
            str(speed.num_tokens),
            str(speed.cached_tokens),
            f"{speed.seconds * 1e3:.1f}",
            f"{speed.tokens_per_second:,.0f}",
        )
        for speed in figures.speeds
    ]
    show_table([("phase", "sequences", "tokens", "cached", "ms", "tokens/s"), *rows], "<>")
    show("\nsampling a step of 64 rows in one lane, ms, by the size of the vocabulary")
    sizes = dict.fromkeys(s.vocab_size for s in figures.samplers)
    cases: dict[str, list[str]] = {}
    for sampler in figures.samplers:
        cases.setdefault(sampler.case, []).append(f"{sampler.seconds * 1e3:.2f}")
    head = ("the model's logits, stretched", *(f"{size:,}" for size in sizes))
    show_table([head, *((case, *cells) for case, cells in cases.items())], "<>")
    if figures.masks is not None:
        show(
            f"\n{figures.masks.case}, {figures.masks.vocab_size:,} tokens: "
            f"{figures.masks.seconds * 1e3:.2f} ms more"
        )
