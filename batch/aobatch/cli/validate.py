"""`aobatch validate`: every bad line of a job, and what the others will take, ahead of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, Unpack

import click

from aobatch.cli.command import Command, exit_codes
from aobatch.cli.console import show
from aobatch.cli.ending import interruptible
from aobatch.cli.models import known_model
from aobatch.cli.options import (
    InputOptions,
    cache_options,
    column_option,
    columns_of,
    format_option,
    input_files,
    input_option,
    inputs_argument,
    request_options,
    selection_of,
    selection_options,
    stream_format_of,
    threads_option,
)

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.job.config import JobConfig
    from aobatch.job.models import Vocabulary
    from aobatch.job.plan import Plan
    from aobatch.job.validation import BatchError, Validation

SHOWN = 20
"""Bad lines that the table has one by one."""

HELP = """Check the lines of a job and say what it will take.

\b
Examples:
  aobatch validate jobs/poems.jsonl
  aobatch validate jobs/*.jsonl.gz --default max_tokens=64 -m smollm2-135m-instruct
  aobatch validate all.jsonl --json | jq '.errors.data[] | .line'

Nothing is computed, fetched or written, and no weights are loaded. A line is bad here if it would
get an error object in the output of aobatch run with the same options. Without the model of the
lines all is checked that needs no tokenizer. The table has the first 20 bad lines, the JSON all.
"""


class CheckOptions(InputOptions):
    """What the command line gives of a job that is checked."""

    limit: int | None
    sample: int | None
    shard: str | None
    seed: int
    model: str | None
    default: tuple[tuple[str, object], ...]
    override: tuple[tuple[str, object], ...]
    ignore_unknown: bool
    clamp_max_tokens: bool
    max_num_seqs: int
    kv_cache_bytes: int | None
    kv_cache_dtype: Literal["fp32", "int8"]
    threads: int


class ValidateOptions(CheckOptions):
    """What the command line gives."""

    as_json: bool


@click.command(
    cls=Command,
    help=HELP,
    exit_codes=exit_codes(
        {0: "every line is right", 1: "some lines are bad"}, 65, 66, 69, 130, 143
    ),
)
@inputs_argument
@input_option
@column_option
@format_option
@selection_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of --sample.")
@request_options
@cache_options
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def validate(**options: Unpack[ValidateOptions]) -> None:
    """Check the lines of a job and say what it will take."""
    found = check_lines(options, as_json=options["as_json"])
    if found.lines.bad:
        raise click.exceptions.Exit(1)


def check_lines(options: CheckOptions, *, as_json: bool) -> "Validation":
    """Show every bad line and what the others will take."""
    from aobatch.job.models import Vocabularies
    from aobatch.job.plan import known_speed, plan_of
    from aobatch.job.validation import ErrorSpool
    from aobatch.job.validation import validate as validate_job

    options["model"], find = known_model(options["model"])
    config, engine = job_config(options), engine_config(options)
    vocabularies = Vocabularies(find, options["model"], clamps=options["clamp_max_tokens"])

    def plan(vocabulary: "Vocabulary") -> "Plan":
        cache, threads = options["kv_cache_dtype"], options["threads"]
        speed = known_speed(vocabulary.folder, cache, threads)
        return plan_of(vocabulary.folder, vocabulary.load, engine, cache, speed)

    with interruptible(), ErrorSpool() as spool:
        shown = ShownErrors()
        on_error: Callable[[BatchError], None] = shown.add
        if as_json:
            on_error = spool.add
        found = validate_job(config, vocabularies, plan, on_error)
        if as_json:
            for line in spool.lines(found):
                show(line)
        else:
            shown.close(found)
    return found


def job_config(options: CheckOptions) -> "JobConfig":
    """Say which job is meant; it has no output."""
    from aobatch.job.config import STREAM, JobConfig
    from aobatch.job.source import check_columns

    config = JobConfig(
        inputs=input_files(options),
        output=STREAM,
        model=options["model"],
        defaults=dict(options["default"]),
        overrides=dict(options["override"]),
        selection=selection_of(options),
        columns=columns_of(options),
        stream_format=stream_format_of(options),
        ignore_unknown=options["ignore_unknown"],
    )
    check_columns(config)
    return config


def engine_config(options: CheckOptions) -> "EngineConfig":
    """Say how the engine would be configured."""
    from aobatch.engine.config import EngineConfig
    from aobatch.executors.local import default_kv_cache_bytes

    config = EngineConfig(
        max_num_seqs=options["max_num_seqs"],
        kv_cache_bytes=options["kv_cache_bytes"] or default_kv_cache_bytes(),
    )
    return replace(config, num_lanes=min(config.num_lanes, options["threads"]))


class ShownErrors:
    """The first bad lines on the terminal, as they are found."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, error: "BatchError") -> None:
        """Show a bad line, or count it."""
        from aobatch.job.validation import error_line

        self._count += 1
        if self._count <= SHOWN:
            show(error_line(error))

    def close(self, found: "Validation") -> None:
        """Say how many were not shown, and all else."""
        from aobatch.job.validation import validation_table

        if self._count > SHOWN:
            show(f"and {self._count - SHOWN:,} bad lines more; --json lists all")
        show(validation_table(found))
