"""What the engine gives back for one request."""

from dataclasses import dataclass

from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.errors import RequestError


@dataclass(frozen=True, slots=True)
class Result:
    """The choices of a finished request, or the error that it ended with."""

    request: Request
    choices: tuple[Choice, ...]
    usage: Usage
    error: RequestError | None
    seconds: float
    """From admission to the last token."""
