"""Tables of the README that come from the code."""

import click
import msgspec

from aobatch.api.body import PARAMETERS
from aobatch.cli.exit_codes import EXIT_CODES
from aobatch.cli.main import aobatch
from aobatch.cli.run import run


def parameter_table() -> str:
    """Write the table of request parameters."""
    rows = ["| parameter | accepted | default | meaning |", "|---|---|---|---|"]
    for parameter in PARAMETERS.values():
        accepted = _escaped(parameter.kind.describe())
        rows.append(
            f"| `{parameter.name}` | {accepted} | {_default(parameter.default)} | {parameter.doc} |"
        )
    return "\n".join(rows)


def option_table() -> str:
    """Write the table of the options of `aobatch run`, in the words of its help, without itself."""
    # A command keeps the names of its help option as they were first asked for.
    context = click.Context(run, **aobatch.context_settings)
    parameters = run.get_params(context)
    options = [option for option in parameters if isinstance(option, click.Option)][:-1]
    records = [option.get_help_record(context) or ("", "") for option in options]
    cells = [(name, " ".join(text.split())) for name, text in records]
    rows = [f"| `{_escaped(name)}` | {_escaped(text)} |" for name, text in cells]
    return "\n".join(["| option | does |", "|---|---|", *rows])


def exit_code_table() -> str:
    """Write the table of exit codes."""
    rows = [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(["| code | meaning |", "|---|---|", *rows])


def _default(value: object) -> str:
    if value is msgspec.NODEFAULT:
        return "required"
    if value is None or value == ():
        return "none"
    return f"`{str(value).lower()}`"


def _escaped(cell: str) -> str:
    """Keep a bar from ending a cell."""
    return cell.replace("|", "\\|")
