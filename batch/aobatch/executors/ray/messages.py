"""What the driver and its workers tell one another, as bytes."""

from dataclasses import dataclass

import msgspec

from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage
from aobatch.engine.sequence import Result
from aobatch.errors import ErrorCode, RequestError


class Order(msgspec.Struct, frozen=True, array_like=True):
    """Further requests for a worker, and how it is to answer."""

    requests: list[Request]
    patience: float
    """Seconds to wait for the first result."""
    interval: float
    """Seconds to wait for further ones behind it."""


class Fault(msgspec.Struct, frozen=True, array_like=True):
    """The error that a request ended with."""

    message: str
    code: ErrorCode
    param: str | None
    status_code: int


class Outcome(msgspec.Struct, frozen=True, array_like=True, tag=0):
    """A result, without its request."""

    key: str
    choices: tuple[Choice, ...]
    usage: Usage
    fault: Fault | None
    seconds: float


class Piece(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A piece of a stream."""

    key: str
    choice: Choice


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """What an engine failed with; it computes nothing more."""

    text: str
    lacks_memory: bool


class Reply(msgspec.Struct, frozen=True, array_like=True):
    """What a worker has done since its last reply."""

    items: list[Outcome | Piece]
    statistics: dict[str, float]
    """Counts and seconds of its engine so far."""
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker has its engine."""

    node: str
    """The id of its node."""
    process: int
    version: str
    """Of aobatch."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A worker's node does not have the model."""


encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
"""Refuses whatever is no reply with msgspec.ValidationError or DecodeError."""


def outcome_of(result: Result) -> Outcome:
    """Take the request out of a result: the driver has it."""
    error, fault = result.error, None
    if error is not None:
        fault = Fault(error.message, error.code, error.param, error.status_code)
    return Outcome(result.request.key, result.choices, result.usage, fault, result.seconds)


def result_of(request: Request, outcome: Outcome) -> Result:
    """Put the request back in."""
    fault, error = outcome.fault, None
    if fault is not None:
        error = RequestError(
            fault.message, code=fault.code, param=fault.param, status_code=fault.status_code
        )
    return Result(request, outcome.choices, outcome.usage, error, outcome.seconds)


def first_line(error: BaseException) -> str:
    """Say what an error of Ray is, which may explain itself at length."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
