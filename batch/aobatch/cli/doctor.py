"""`aobatch doctor`: whether this machine can run jobs."""

from typing import TYPE_CHECKING

import click

from aobatch.cli.command import Command, settings_file
from aobatch.cli.console import show
from aobatch.cli.exit_codes import exit_codes

if TYPE_CHECKING:
    from aobatch.job.doctor import Diagnosis

HELP = """Say whether this machine can run jobs.

\b
Examples:
  aobatch doctor
  aobatch doctor --json | jq .models

Looks at Python and packages, the processor and whether it multiplies 8-bit integers rightly, cores,
memory within a container's limit, settings and models. Nothing is fetched or changed.
"""


@click.command(
    cls=Command,
    help=HELP,
    exit_codes=exit_codes({0: "everything is right", 1: "something is wrong, see its line"}),
)
@click.option("--json", "as_json", is_flag=True, help="Print everything as one JSON object.")
@click.pass_context
def doctor(ctx: click.Context, *, as_json: bool) -> None:
    """Say whether this machine can run jobs."""
    import msgspec

    from aobatch.cli.settings import find_settings
    from aobatch.cli.versions import package_versions
    from aobatch.job.doctor import diagnose

    found = diagnose(package_versions(), find_settings(settings_file(ctx)).path)
    if as_json:
        show(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        _show(found)
    if not found.is_right:
        raise click.exceptions.Exit(1)


def _show(found: "Diagnosis") -> None:
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        advice = "" if check.advice is None else f"; {check.advice}"
        mark = "ok   " if check.is_right else "WRONG"
        show(f"{mark} {check.name:<{width}}  {check.found}{advice}")
    for model in found.models:
        state = "ready" if model.is_ready else f"not here: aobatch models pull {model.name}"
        show(f"      {'model':<{width}}  {model.name} ({model.precision}), {state}")
