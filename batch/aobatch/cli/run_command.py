"""The help page of `aobatch run`, and what becomes of a command line that it refuses."""

from typing import Any

import click

from aobatch.cli.ending import conclude_usage_error
from aobatch.cli.file_options import FILE_OPTION_NAMES as FILE_NAMES
from aobatch.cli.help import GroupedCommand
from aobatch.cli.report_options import REPORT_OPTION_NAMES as NAMES
from aobatch.errors import UsageError

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
