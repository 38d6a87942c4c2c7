"""How the columns of a table become the fields of requests."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from aobatch.api.body import PARAMETERS
from aobatch.api.request import ENVELOPE_FIELDS
from aobatch.errors import UsageError


@dataclass(frozen=True, slots=True)
class Columns:
    """What a job says of the columns of its inputs."""

    names: Mapping[str, str] = field(default_factory=dict)
    """The columns of fields that are not called as the field; other columns are then ignored."""
    ignores_unknown: bool = False
    """Whether columns that are no field are ignored."""
    optional: frozenset[str] = frozenset()
    """Fields that the job has a default for."""

    def check(self) -> None:
        """Refuse a column for a field that does not exist."""
        known = [*ENVELOPE_FIELDS, *PARAMETERS]
        for name in self.names:
            if name not in known:
                message = f"a request has no field '{name}' for a column{suggest(name, known)}"
                raise UsageError(message)


def suggest(name: str, known: Iterable[str]) -> str:
    """Ask whether a known name was meant, if one is like this one."""
    matches = get_close_matches(name, list(known), n=1)
    return f" (did you mean '{matches[0]}'?)" if matches else ""
