"""`aobatch bench`: how fast a model is on this machine."""

import json
import os
from dataclasses import asdict

import click

from aobatch.cli.signals import interruptible


@click.command()
@click.option("-m", "--model", metavar="NAME", help="Which model; the default one if not given.")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. Default: all cores.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def bench(model: str | None, threads: int | None, *, as_json: bool) -> None:
    """Measure decode steps and prefill, in new tokens a second."""
    from aobatch.cli.progress import stage_progress
    from aobatch.executors.local import pull
    from aobatch.runners.benchmark import benchmark
    from aobatch.runners.onnx import OnnxRunner
    from aobatch.sampling.benchmark import benchmark_sampler

    with interruptible():
        with stage_progress(is_quiet=as_json) as stages:
            folder = pull(model, stages)
        runner = OnnxRunner(folder.path / "model.onnx", threads or len(os.sched_getaffinity(0)))
        speeds = []
        if not as_json:
            click.echo(f"{'phase':<8} {'sequences':>9} {'tokens':>6} {'ms':>8} {'tokens/s':>9}")
        for speed in benchmark(runner):
            speeds.append(asdict(speed) | {"tokens_per_second": speed.tokens_per_second})
            if not as_json:
                click.echo(
                    f"{speed.phase:<8} {speed.num_sequences:>9} {speed.num_tokens:>6} "
                    f"{speed.seconds * 1e3:>8.1f} {speed.tokens_per_second:>9,.0f}"
                )
        samplers = []
        if not as_json:
            click.echo("\nsampling a step of 64 rows × 49,152 logits")
        for sampler in benchmark_sampler():
            samplers.append(asdict(sampler))
            if not as_json:
                click.echo(f"{sampler.case:<42} {sampler.seconds * 1e3:>6.2f} ms")
    if as_json:
        facts = {"model": folder.manifest.name, "precision": folder.manifest.precision}
        click.echo(json.dumps(facts | {"speeds": speeds, "sampler": samplers}, indent=2))
