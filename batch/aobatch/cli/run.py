"""`aobatch run`: answer every request of the input files."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack

import click

from aobatch.cli.command import EXIT_CODES, GroupedCommand, is_given, settings_in_use
from aobatch.cli.console import log_format, say, say_report
from aobatch.cli.ending import (
    Ending,
    conclude_usage_error,
    interruptible,
    limited_time,
    reported_failures,
)
from aobatch.cli.models import usable_model
from aobatch.cli.options import FILE_OPTION_NAMES as FILE_NAMES
from aobatch.cli.options import REPORT_OPTION_NAMES as NAMES
from aobatch.cli.options import (
    Allowance,
    Duration,
    FileOptions,
    ReportOptions,
    cache_options,
    columns_of,
    executor_options,
    file_options,
    input_files,
    plan,
    report_options,
    request_options,
    selection_of,
    selection_options,
    stream_format_of,
    threads_option,
)
from aobatch.cli.validate import check_lines
from aobatch.errors import UsageError

if TYPE_CHECKING:
    from aobatch.executors import Backend
    from aobatch.job.config import JobConfig
    from aobatch.job.runner import JobOutcome


HELP = """Answer every request of the input files.

\b
Examples:
  aobatch run jobs/poems.jsonl
  aobatch run jobs/*.jsonl.gz -o answers.jsonl.zst --default max_tokens=64
  aobatch run s3://bucket/in/ -o 's3://bucket/out/{stem}.out{ext}'
  aobatch run reviews.parquet --column prompt=text --default max_tokens=64
  aobatch run jobs/large.jsonl --executor ray --workers 8
  grep french jobs/all.jsonl | aobatch run - -o - | jq -r '.choices[0].text'

IN is a file of one request a line (.jsonl, .ndjson, also with .gz .zst .bz2 .lz4) or a row
(.parquet), a pattern or folder of such files, a URI (s3, gs, abfs, hf, fsspec+NAME), or - for
standard input. The output has one line for each of them, in their order, and appears when the
last one is answered. The same command goes on where it was stopped, and does nothing when it had
finished. What jobs wrote themselves is passed over among several files.

The name of OUT may have {dir}, {stem} and {ext} of IN, {date} of the day on which the job began,
{shard} and {shards}; with one of the first three, each input is a job of its own.
"""


class RunCommand(GroupedCommand):
    """The command with its options in groups."""

    option_groups = {  # noqa: RUF012 - declared as a ClassVar in GroupedCommand
        "Files": (*FILE_NAMES, "dry_run", "restart", "retry_failed", "max_failures", "time_limit"),
        "Lines": ("limit", "sample", "shard"),
        "Requests": (
            "model",
            "default",
            "override",
            "ignore_unknown",
            "clamp_max_tokens",
            "logprobs_mode",
        ),
        "Sampling": ("seed",),
        "Machine": (
            "executor",
            "workers",
            "max_num_seqs",
            "kv_cache_bytes",
            "kv_cache_dtype",
            "prefix_sharing",
            "threads",
            "step_timeout",
        ),
        "Report": NAMES,
    }

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> click.Context:
        """Read the command line; one that is wrong is told as any other end of a run."""
        given = tuple(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.exceptions.NoArgsIsHelpError:
            raise
        except click.UsageError as error:
            conclude_usage_error(given, error)
        except UsageError as error:  # in a settings file
            conclude_usage_error(given, click.UsageError(str(error)))


class RunOptions(FileOptions, ReportOptions):
    """What the command line gives."""

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
    executor: Literal["local", "ray"]
    workers: int
    max_failures: str
    time_limit: float | None
    step_timeout: float
    dry_run: bool
    restart: bool
    retry_failed: bool


@click.command(cls=RunCommand, help=HELP, exit_codes=EXIT_CODES)
@file_options
@click.option(
    "--dry-run",
    is_flag=True,
    help="Compute and write nothing; say what is wrong with the lines, and what they will take.",
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
@executor_options
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
    from aobatch.job.config import parse_allowance

    ending = Ending.of(options, is_dry=options["dry_run"])
    with log_format(options["log_format"]), reported_failures(ending.conclude):
        ending.check()
        allowance = parse_allowance(options["max_failures"])
        if options["dry_run"]:
            lines = ending.checked = check_lines(options, as_json=False).lines
            num_failed, num_lines = lines.bad, lines.total
        else:
            num_failed, num_lines = _run(options, ending)
        if not allowance.allows(num_failed, num_lines):
            ending.message = (
                f"{num_failed:,} of {num_lines:,} lines failed, more than "
                f"--max-failures {options['max_failures']} allows"
            )
            say(ending.message, level="warning", event="end")
            raise click.exceptions.Exit(1)


def _run(options: RunOptions, ending: Ending) -> tuple[int, int]:
    """Run the jobs; give how many lines failed, and of how many."""
    from aobatch.cli.progress import job_progress, stage_progress
    from aobatch.job.plan import note_run
    from aobatch.job.runner import run_job

    num_failed = num_lines = 0
    with (
        interruptible(),
        limited_time(options["time_limit"]),
        stage_progress(is_quiet=options["quiet"]) as stages,
        closing_backend(open_backend(options, stages)) as backend,
    ):
        options["model"] = usable_model(options["model"], stages, is_quiet=options["quiet"])
        configs = job_configs(options)
        ending.jobs |= dict.fromkeys((config.output for config in configs), None)
        for config in configs:
            outcome = run_job(config, backend, job_progress(is_quiet=options["quiet"]))
            ending.jobs[config.output] = outcome.report
            if not outcome.was_finished and options["executor"] == "local":
                note_run(outcome.report, options["kv_cache_dtype"], options["threads"])
            if not options["quiet"]:
                say_outcome(outcome, config)
            num_failed += outcome.report.requests.failed
            num_lines += outcome.report.requests.total
    return num_failed, num_lines


def job_configs(options: RunOptions) -> "Sequence[JobConfig]":
    """Say which jobs the options ask for; UsageError if they do not go together."""
    from aobatch.job.config import JobConfig
    from aobatch.job.report.usage import read_prices

    config = JobConfig(
        inputs=input_files(options, options["output"], options["errors"]),
        output=Path(),
        columns=columns_of(options),
        stream_format=stream_format_of(options, options["output"]),
        model=options["model"],
        defaults=dict(options["default"]),
        overrides=dict(options["override"]),
        selection=selection_of(options),
        ignore_unknown=options["ignore_unknown"],
        is_restart=options["restart"],
        retries_failed=options["retry_failed"],
        prices=read_prices(options["prices"]) if options["prices"] else None,
        depfile=options["depfile"],
        settings_file=settings_in_use(),
    )
    jobs = plan(config, options)
    if config.depfile is not None and len(jobs) > 1:
        message = "--depfile is for a run of one output; give every output a run, as make does"
        raise UsageError(message)
    return jobs


def open_backend(options: RunOptions, stages: Callable[[str, int, int], None]) -> "Backend":
    """Choose where requests are computed."""
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import LocalBackend, default_kv_cache_bytes
    from aobatch.runners import RunnerConfig

    config = EngineConfig(
        max_num_seqs=options["max_num_seqs"],
        kv_cache_bytes=options["kv_cache_bytes"] or default_kv_cache_bytes(),
        shares_prefixes=options["prefix_sharing"],
        seed=options["seed"],
        clamp_max_tokens=options["clamp_max_tokens"],
        logprobs_mode=options["logprobs_mode"],
        step_seconds=options["step_timeout"],
    )
    runner = RunnerConfig(options["threads"], options["kv_cache_dtype"])
    local = LocalBackend(config, runner, stages)
    if options["executor"] == "local":
        return local
    from aobatch.executors.ray.backend import RayBackend, RayOptions

    ray_options = RayOptions(
        options["workers"],
        options["threads"] if is_given("threads") else None,
        keeps_cache_bytes=options["kv_cache_bytes"] is not None,
        warn=lambda message: say(message, level="warning", event="worker"),
    )
    return RayBackend(local, ray_options)


def closing_backend(backend: "Backend") -> "AbstractContextManager[Backend]":
    """Give a block at whose end a backend lets go of what it holds, if it holds anything."""
    return backend if isinstance(backend, AbstractContextManager) else nullcontext(backend)


def say_outcome(outcome: "JobOutcome", config: "JobConfig") -> None:
    """Show the usage report and where the answers are."""
    from aobatch.job.config import STREAM

    if outcome.was_finished:
        say(f"{config.published} was finished already", event="finished")
        return
    say_report(outcome.report)
    if config.output != STREAM:
        where = f"answers in {config.published}, report in {config.published}.usage.json"
        say(where, event="finished")
