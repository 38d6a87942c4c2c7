"""`aobatch run`: answer every request of the input files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack

import click

from aobatch.cli.console import log_format, say
from aobatch.cli.ending import Ending
from aobatch.cli.exit_codes import EXIT_CODES
from aobatch.cli.failures import reported_failures
from aobatch.cli.options import (
    cache_options,
    request_options,
    selection_of,
    selection_options,
    threads_option,
)
from aobatch.cli.parameters import ANY_PATH, Allowance, Duration
from aobatch.cli.report_options import ReportOptions, report_options
from aobatch.cli.run_command import HELP, RunCommand
from aobatch.cli.signals import interruptible, limited_time
from aobatch.cli.tables import say_report
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.executors import Backend
    from aobatch.job.config import JobConfig
    from aobatch.job.runner import JobOutcome


class RunOptions(ReportOptions):
    """What the command line gives."""

    inputs: tuple[Path, ...]
    output: Path | None
    model: str | None
    default: tuple[tuple[str, object], ...]
    override: tuple[tuple[str, object], ...]
    limit: int | None
    sample: int | None
    shard: str | None
    seed: int
    ignore_unknown: bool
    clamp_max_tokens: bool
    logprobs_mode: Literal["raw", "processed"]
    max_num_seqs: int
    kv_cache_bytes: int | None
    kv_cache_dtype: Literal["fp32", "int8"]
    prefix_sharing: bool
    threads: int
    max_failures: str
    time_limit: float | None
    step_timeout: float
    restart: bool
    retry_failed: bool


@click.command(cls=RunCommand, help=HELP, exit_codes=EXIT_CODES)
@click.argument("inputs", metavar="IN...", nargs=-1, required=True, type=ANY_PATH)
@click.option(
    "-o",
    "--output",
    metavar="OUT",
    type=ANY_PATH,
    help="Where the answers go; - is standard output. Default: a.jsonl gives a.out.jsonl.",
)
@click.option("--restart", is_flag=True, help="Discard what an earlier run computed.")
@click.option(
    "--retry-failed",
    is_flag=True,
    help="Compute requests again that failed in an earlier run, also of a finished job.",
)
@click.option(
    "--max-failures",
    metavar="N|P%",
    type=Allowance(),
    default="0",
    show_default=True,
    help="Lines that may fail without exit code 1.",
)
@click.option(
    "--time-limit",
    metavar="DURATION",
    type=Duration(),
    help="Stop after 90s, 30m or 2h with exit code 75; the same command goes on.",
)
@selection_options
@request_options
@click.option(
    "--logprobs-mode",
    type=click.Choice(["raw", "processed"]),
    default="raw",
    show_default=True,
    help="Logprobs of the model alone, or after bias, penalties and temperature.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of lines without one.")
@cache_options
@click.option(
    "--prefix-sharing/--no-prefix-sharing",
    default=True,
    show_default=True,
    help="Compute the beginning that prompts have in common once.",
)
@threads_option
@click.option(
    "--step-timeout",
    metavar="DURATION",
    type=Duration(),
    default="10m",
    show_default=True,
    help="Take a single run of the model that lasts longer for hung.",
)
@report_options
def run(**options: Unpack[RunOptions]) -> None:
    """Answer every request of the input files."""
    ending = Ending.of(options)
    with log_format(options["log_format"]), reported_failures(ending.conclude):
        ending.check()
        _run(options, ending)


def _run(options: RunOptions, ending: Ending) -> None:
    from aobatch.cli.progress import job_progress, stage_progress
    from aobatch.job.config import parse_allowance
    from aobatch.job.runner import run_job
    from aobatch.job.speeds import note_run

    allowance = parse_allowance(options["max_failures"])
    config = job_config(options)
    ending.output = config.output
    with (
        interruptible(),
        limited_time(options["time_limit"]),
        stage_progress(is_quiet=options["quiet"]) as stages,
    ):
        backend = open_backend(options, stages)
        outcome = run_job(config, backend, job_progress(is_quiet=options["quiet"]))
    ending.report = outcome.report
    if not outcome.was_finished:
        note_run(outcome.report, options["kv_cache_dtype"], options["threads"])
    if not options["quiet"]:
        say_outcome(outcome, config)
    counts = outcome.report.requests
    if not allowance.allows(counts.failed, counts.total):
        ending.message = (
            f"{counts.failed:,} of {counts.total:,} lines failed, more than "
            f"--max-failures {options['max_failures']} allows"
        )
        say(ending.message, level="warning", event="end")
        raise click.exceptions.Exit(1)


def job_config(options: RunOptions) -> "JobConfig":
    """Say what the options ask for; UsageError if they do not go together."""
    from aobatch.job.config import JobConfig, default_output
    from aobatch.job.prices import read_prices

    output = options["output"]
    if output is None and len(options["inputs"]) > 1:
        message = "several inputs go into one output: name it with --output"
        raise UsageError(message)
    selection = selection_of(options)
    return JobConfig(
        inputs=options["inputs"],
        output=output or default_output(options["inputs"][0], selection.shard),
        model=options["model"],
        defaults=dict(options["default"]),
        overrides=dict(options["override"]),
        selection=selection,
        ignore_unknown=options["ignore_unknown"],
        is_restart=options["restart"],
        retries_failed=options["retry_failed"],
        prices=read_prices(options["prices"]) if options["prices"] else None,
    )


def open_backend(options: RunOptions, stages: Callable[[str, int, int], None]) -> "Backend":
    """Choose where requests are computed."""
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import LocalBackend
    from aobatch.executors.memory import default_kv_cache_bytes

    config = EngineConfig(
        max_num_seqs=options["max_num_seqs"],
        kv_cache_bytes=options["kv_cache_bytes"] or default_kv_cache_bytes(),
        shares_prefixes=options["prefix_sharing"],
        seed=options["seed"],
        clamp_max_tokens=options["clamp_max_tokens"],
        logprobs_mode=options["logprobs_mode"],
        kv_cache_dtype=options["kv_cache_dtype"],
        step_seconds=options["step_timeout"],
    )
    return LocalBackend(config, options["threads"], stages)


def say_outcome(outcome: "JobOutcome", config: "JobConfig") -> None:
    """Show the usage report and where the answers are."""
    from aobatch.job.config import STREAM

    if outcome.was_finished:
        say(f"{config.output} was finished already", event="finished")
        return
    say_report(outcome.report)
    if config.output != STREAM:
        say(f"answers in {config.output}, report in {config.output}.usage.json", event="finished")
