"""`aobatch validate`: every bad line of a job, and what the others will take, ahead of it."""

from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import command, exit_codes
from aobatch.cli.console import show
from aobatch.cli.ending import interruptible
from aobatch.cli.models import known_model
from aobatch.cli.options import JobOptions, JsonOption, PricesOption, options

if TYPE_CHECKING:
    from aobatch.job.models import Vocabulary
    from aobatch.job.plan import Plan
    from aobatch.job.report.usage import Prices
    from aobatch.job.validation import BatchError, Validation

SHOWN = 20
"""Bad lines that the table has one by one."""


@options()
class ValidateOptions(JsonOption, PricesOption, JobOptions):
    """What the command line gives."""


@command(
    ValidateOptions,
    exit_codes({0: "every line is right", 1: "some lines are bad"}, 65, 66, 69, 75, 77, 130, 143),
)
def validate(options: ValidateOptions) -> None:
    """Check the lines of a job and say what it will take.

    Examples:
      aobatch validate jobs/poems.jsonl
      aobatch validate jobs/*.jsonl.gz --default max_tokens=64 -m smollm2-135m-instruct
      aobatch validate reviews.csv --template 'Good or bad? {text}' --prices prices.toml
      aobatch validate all.jsonl --json | jq '.errors.data[] | .line'

    Nothing is computed, fetched or written, and no weights are loaded. A line is bad here if it
    would get an error object in the output of aobatch run with the same options. Without the model
    of the lines all is checked that needs no tokenizer. The table has the first 20 bad lines, the
    JSON all.
    """
    prices = options.known_prices()
    if check_lines(options, as_json=options.as_json, prices=prices).lines.bad:
        raise click.exceptions.Exit(1)


def check_lines(
    options: JobOptions, *, as_json: bool, prices: "Prices | None" = None
) -> "Validation":
    """Show every bad line and what the others will take."""
    from aobatch.executors.local import num_lanes
    from aobatch.job.models import Vocabularies
    from aobatch.job.plan import known_speed, plan_of
    from aobatch.job.source import check_columns
    from aobatch.job.validation import ErrorSpool, error_line, validation_table, with_cost
    from aobatch.job.validation import validate as validate_job

    model, find = known_model(options.model)
    config, engine = replace(options.job_config(), model=model), options.engine_config()
    check_columns(config)
    clamps = options.clamp_max_tokens
    vocabularies = Vocabularies(find, model, clamps=clamps, chat_format=options.chat_format)
    numbers = count(1)

    def plan(vocabulary: "Vocabulary") -> "Plan":
        folder, runner = vocabulary.folder, options.runner_config()
        config = replace(engine, num_lanes=num_lanes(folder, engine, runner))
        return plan_of(folder, vocabulary.load, config, runner, known_speed(folder, runner))

    def show_first(error: "BatchError") -> None:
        if next(numbers) <= SHOWN:
            show(error_line(error))

    with interruptible(), closing(ErrorSpool()) as spool:
        found = validate_job(config, vocabularies, plan, spool.add if as_json else show_first)
        found = with_cost(found, vocabularies, prices)
        if as_json:
            for line in spool.lines(found):
                show(line)
            return found
    if found.lines.bad > SHOWN:
        show(f"and {found.lines.bad - SHOWN:,} bad lines more; --json lists all")
    show(validation_table(found))
    return found
