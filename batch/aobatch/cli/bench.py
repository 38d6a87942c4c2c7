"""`aobatch bench`: how fast a model is on this machine, and where the time goes."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, Unpack

import click

from aobatch.cli.command import Command
from aobatch.cli.completing import model_names
from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.options import threads_option
from aobatch.cli.signals import interruptible

if TYPE_CHECKING:
    from aobatch.cli.measurements import Measurements

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
    from aobatch.cli.progress import stage_progress
    from aobatch.job.file_benchmark import benchmark_files

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
    from aobatch.cli.measurements import measure
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
