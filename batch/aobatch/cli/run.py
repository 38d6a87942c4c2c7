"""`aobatch run`: answer every request of the input files."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from aobatch.cli.command import EXIT_CODES, Command, command, places_read, settings_in_use
from aobatch.cli.console import LogFormat, log_format, say, say_report
from aobatch.cli.ending import (
    METRICS,
    SUMMARY,
    Ending,
    interruptible,
    limited_time,
    reported_failures,
)
from aobatch.cli.models import usable_model
from aobatch.cli.options import (
    JobOptions,
    Options,
    PricesOption,
    QuietOption,
    StateOption,
    option,
    options,
)
from aobatch.cli.validate import check_lines
from aobatch.cli.values import ALLOWANCE, ANY_PATH, AT_LEAST_1, DURATION, LOCATION
from aobatch.errors import JobError, UsageError

if TYPE_CHECKING:
    from aobatch.executors import Backend
    from aobatch.formats.remote import Location
    from aobatch.job.config import JobConfig
    from aobatch.job.runner import JobOutcome


@options("Files")
class OutputOptions(Options):
    """What is written, and when a run is done."""

    output: "Location | None" = option(
        None,
        "Where the answers go: a file, a URI, a name with {stem} and so on, or - for standard "
        "output. Default: {dir}/{stem}.out{ext}.",
        "-o",
        metavar="OUT",
        type=LOCATION,
    )
    errors: "Location | None" = option(None, "Write failed lines there as well.", type=LOCATION)
    depfile: Path | None = option(
        None,
        "Where to write, for make, which files OUT is made from.",
        metavar="PATH",
        type=ANY_PATH,
    )
    dry_run: bool = option(
        False,
        "Compute and write nothing; say what is wrong with the lines, and what they will take.",
    )
    restart: bool = option(False, "Discard what an earlier run computed.")
    retry_failed: bool = option(
        False, "Compute requests again that failed in an earlier run, also of a finished job."
    )
    max_failures: str = option(
        "0", "Lines that may fail without exit code 1.", metavar="N|P%", type=ALLOWANCE
    )
    time_limit: float | None = option(
        None,
        "Stop after 90s, 30m or 2h with exit code 75; the same command goes on.",
        type=DURATION,
    )


@options("Machine")
class ExecutorOptions(Options):
    """Where requests are computed."""

    prefix_sharing: bool = option(
        True,
        "Compute the beginning that prompts have in common once.",
        "--prefix-sharing/--no-prefix-sharing",
    )
    executor: Literal["local", "ray"] = option(
        "local", "Compute in this process, or by workers of Ray: RAY_ADDRESS, else a local one."
    )
    workers: int = option(
        1,
        "Workers of --executor ray, each with the model; they share the CPUs.",
        metavar="N",
        type=AT_LEAST_1,
    )
    step_timeout: float = option(
        "10m", "Take a single run of the model that lasts longer for hung.", type=DURATION
    )


@options("Report")
class ReportOptions(PricesOption):
    """What a run says."""

    summary: Literal["json"] | None = option(
        None, "End with one line of JSON on standard error, however the run ends."
    )
    summary_file: Path | None = option(None, "Write the same JSON to a file, however the run ends.")
    metrics_file: Path | None = option(
        None, "Write metrics for Prometheus' node exporter, however the run ends."
    )
    log_format: LogFormat = option(
        "text", "What is said on standard error: text, or a JSON object a line."
    )


@options()
class RunOptions(
    QuietOption, ReportOptions, ExecutorOptions, StateOption, OutputOptions, JobOptions
):
    """All options of a run."""

    logprobs_mode: Literal["raw", "processed"] = option(
        "raw",
        "Logprobs of the model alone, or of what tokens are drawn from: after bias, penalties, "
        "temperature, top_k, top_p and min_p, possible tokens alone.",
        group="Requests",
    )
    seed: int = option(0, "Seed of lines without one.", group="Sampling")


class RunCommand(Command):
    """The command with its options under titles, which tells wrong command lines as other ends."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, group by group, those of no group last."""
        options = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        for title, members in groupby(options, lambda option: getattr(option, "group", None)):
            records = [member.get_help_record(ctx) for member in members]
            with formatter.section(title or "Other options"):
                formatter.write_dl([record for record in records if record is not None])

    def make_context(
        self,
        info_name: str | None,
        args: list[str],
        parent: click.Context | None = None,
        **extra: Any,  # noqa: ANN401 - click's signature
    ) -> click.Context:
        """Read the command line; one that is wrong is told as far as it can be read."""
        given = list(args)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except (click.UsageError, UsageError):  # the latter in a settings file
            extra |= {"resilient_parsing": True, "ignore_unknown_options": True}
            with super().make_context(info_name, given, parent, **extra) as ctx:
                options = RunOptions(**ctx.params)
                ending = ending_of(options)
                with suppress(JobError):
                    ending.check()
            with log_format(options.log_format), reported_failures(ending.conclude):
                raise


@command(RunOptions, EXIT_CODES, kind=RunCommand)
def run(options: RunOptions) -> None:
    """Answer every request of the input files.

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
    last one is answered. The same command goes on where it was stopped, and does nothing when it
    had finished. What jobs wrote themselves is passed over among several files.

    The name of OUT may have {dir}, {stem} and {ext} of IN, {date} of the day on which the job
    began, {shard} and {shards}; with one of the first three, each input is a job of its own.
    """
    from aobatch.job.config import parse_allowance

    ending = ending_of(options)
    with log_format(options.log_format), reported_failures(ending.conclude):
        ending.check()
        allowance = parse_allowance(options.max_failures)
        if options.dry_run:
            prices = options.known_prices()
            lines = ending.checked = check_lines(options, as_json=False, prices=prices).lines
            num_failed, num_lines = lines.bad, lines.total
        else:
            num_failed, num_lines = _run(options, ending)
        if not allowance.allows(num_failed, num_lines):
            ending.message = (
                f"{num_failed:,} of {num_lines:,} lines failed, more than "
                f"--max-failures {options.max_failures} allows"
            )
            say(ending.message, level="warning", event="end")
            raise click.exceptions.Exit(1)


def ending_of(options: RunOptions) -> Ending:
    """Say where the end of a run is told."""
    from aobatch.job.paths import Place

    named = {SUMMARY: options.summary_file, METRICS: options.metrics_file}
    others = places_read(options)
    if options.depfile is not None:
        others.append(Place(options.depfile, "--depfile", "--depfile"))
    return Ending(
        {option: path for option, path in named.items() if path is not None},
        others,
        writes_line=options.summary == "json",
        is_dry=options.dry_run,
    )


def _run(options: RunOptions, ending: Ending) -> tuple[int, int]:
    """Run the jobs; give how many lines failed, and of how many."""
    from aobatch.cli.progress import job_progress, stage_progress
    from aobatch.job.plan import note_run
    from aobatch.job.runner import run_job

    num_failed = num_lines = 0
    # Nothing has run beside the main thread so far, so that this is about the time that passed.
    seconds_before = time.process_time()
    with (
        interruptible(),
        limited_time(options.time_limit),
        stage_progress(is_quiet=options.quiet) as stages,
        ExitStack() as stack,
    ):
        configs = job_configs(options)
        ending.check(configs)
        backend = open_backend(options, stages)
        if isinstance(backend, AbstractContextManager):  # with workers of its own
            stack.enter_context(backend)
        model = usable_model(options.model, stages, is_quiet=options.quiet)
        configs = [replace(config, model=model) for config in configs]
        ending.jobs |= dict.fromkeys((config.output for config in configs), None)
        for config in configs:
            outcome = run_job(config, backend, job_progress(is_quiet=options.quiet))
            ending.jobs[config.output] = outcome.report
            if not outcome.was_finished and options.executor == "local":
                note_run(outcome.report, options.runner_config(), seconds_before)
            if not options.quiet:
                say_outcome(outcome, config)
            num_failed += outcome.report.requests.failed
            num_lines += outcome.report.requests.total
    return num_failed, num_lines


def job_configs(options: RunOptions) -> "Sequence[JobConfig]":
    """Say which jobs the options ask for; UsageError if they do not go together."""
    from aobatch.job.paths import Targets, plan_jobs

    config = replace(
        options.job_config(options.output, options.errors),
        is_restart=options.restart,
        retries_failed=options.retry_failed,
        prices=options.known_prices(),
        depfile=options.depfile,
        settings_file=settings_in_use(),
    )
    jobs = plan_jobs(config, Targets(options.output, options.errors, options.state_dir))
    if config.depfile is not None and len(jobs) > 1:
        message = "--depfile is for a run of one output; give every output a run, as make does"
        raise UsageError(message)
    return jobs


def open_backend(options: RunOptions, stages: Callable[[str, int, int], None]) -> "Backend":
    """Choose where requests are computed."""
    from aobatch.executors.local import LocalBackend

    config = replace(
        options.engine_config(),
        shares_prefixes=options.prefix_sharing,
        seed=options.seed,
        clamp_max_tokens=options.clamp_max_tokens,
        logprobs_mode=options.logprobs_mode,
        step_seconds=options.step_timeout,
    )
    local = LocalBackend(config, options.runner_config(), stages)
    if options.executor == "local":
        return local
    from aobatch.executors.ray.backend import RayBackend

    return RayBackend(
        local,
        options.workers,
        lambda message: say(message, level="warning", event="worker"),
        threads=options.threads,
        keeps_cache_bytes=options.kv_cache_bytes is not None,
    )


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
