"""`aobatch status`: how far a running or interrupted job is."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command
from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.file_options import state_dir_option
from aobatch.cli.parameters import FileLocation

if TYPE_CHECKING:
    from aobatch.formats.remote import Location
    from aobatch.job.status import JobStatus

HELP = """Say how far a running or interrupted job is.

\b
Examples:
  aobatch status jobs/poems.out.jsonl
  watch aobatch status answers.jsonl
  aobatch status answers.jsonl --json | jq .answered

OUT is the output of the job. A run that is at work is not disturbed.
"""


@click.command(cls=Command, help=HELP, exit_codes=exit_codes({0: "there is such a job"}, 65, 66))
@click.argument("output", metavar="OUT", type=FileLocation())
@state_dir_option
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def status(output: "Location", state_dir: Path | None, *, as_json: bool) -> None:
    """Say how far a job is."""
    import msgspec

    from aobatch.job.config import local_path
    from aobatch.job.status import job_status

    found = job_status(local_path(output, state_dir))
    if as_json:
        show(msgspec.json.encode(found).decode())
    else:
        show(_sentence(output, found))


def _sentence(output: "Location", found: "JobStatus") -> str:
    share = f"{found.answered:,} of {found.lines:,} lines answered"
    failed = f", {found.failed:,} of them failed" if found.failed else ""
    tokens = f", {found.completion_tokens:,} new tokens in {_duration(found.seconds)}"
    if found.state == "finished":
        return f"{output} is finished: {share}{failed}{tokens}"
    left = found.seconds_left
    rest = "" if left is None else f", about {_duration(left)} to go"
    if found.state == "running":
        return f"{output} is under way by {found.holder}: {share}{failed}{tokens}{rest}"
    return f"{output} was interrupted; run the same command again: {share}{failed}{tokens}{rest}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
