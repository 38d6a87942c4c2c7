"""`aobatch models verify`: whether a model is what was converted, runs, and is close to fp32."""

from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command
from aobatch.cli.completing import model_names
from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes
from aobatch.cli.signals import interruptible
from aobatch.errors import ModelError
from aobatch.text import escape

if TYPE_CHECKING:
    from aobatch.executors.verification import Verification

HELP = """Check the files of a model, run it, and measure its quality again.

\b
Examples:
  aobatch models verify smollm2-135m-instruct
  aobatch models verify mine --json | jq '.checks[] | select(.state == "failed")'

Checksums of all files, operators and sizes of the graphs, the vocabulary; then the scores of
prompts alone and in a batch, which have to be the same to the bit. KL divergence and greedy
agreement are measured against the model in full precision, if that is here too as NAME-fp32.
"""

_MARKS = {"ok": "ok    ", "failed": "FAILED", "not checked": "-     "}


@click.command(
    cls=Command,
    help=HELP,
    exit_codes=exit_codes({0: "nothing is wrong", 69: "something failed, see its line"}, 130, 143),
)
@click.argument("name", shell_complete=model_names)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
def verify(name: str, *, as_json: bool) -> None:
    """Check the files of a model, run it, and measure its quality again."""
    import msgspec

    from aobatch.cli.progress import stage_progress
    from aobatch.errors import RequestError
    from aobatch.executors.verification import verify as verify_model
    from aobatch.models.verification import locate

    try:
        path = locate(name)
    except RequestError as error:
        raise ModelError(error.message) from error
    with interruptible(), stage_progress(is_quiet=as_json) as progress:
        found = verify_model(path, progress)
    if as_json:
        show(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _show(found)
    if not found.is_right:
        raise click.exceptions.Exit(ModelError.exit_code)


def _show(found: "Verification") -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        advice = f"; {check.advice}" if check.advice else ""
        text = escape(f"{check.found}{advice}")
        show(f"{_MARKS[check.state]} {check.name:<{width}}  {text}")
