"""Tables of the README that come from the code."""

import msgspec

from aobatch.api.body import PARAMETERS
from aobatch.cli.failures import EXIT_CODES


def parameter_table() -> str:
    """Write the table of request parameters."""
    rows = ["| parameter | accepted | default | meaning |", "|---|---|---|---|"]
    for parameter in PARAMETERS.values():
        accepted = parameter.kind.describe().replace("|", "\\|")
        rows.append(
            f"| `{parameter.name}` | {accepted} | {_default(parameter.default)} | {parameter.doc} |"
        )
    return "\n".join(rows)


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
