"""Every error aobatch raises on purpose.

A JobError ends the command with its `exit_code`; a RequestError becomes the documented error object
of one line.
"""

from functools import partial
from typing import Literal, TypeAlias

ErrorCode: TypeAlias = Literal[
    "array_above_max_length",
    "context_length_exceeded",
    "decimal_above_max_value",
    "decimal_below_min_value",
    "duplicate_custom_id",
    "duplicate_key",
    "empty_array",
    "empty_string",
    "engine_crash",
    "insufficient_memory",
    "integer_above_max_value",
    "integer_below_min_value",
    "invalid_json_line",
    "invalid_type",
    "invalid_unicode",
    "invalid_url",
    "invalid_utf8",
    "invalid_value",
    "line_too_long",
    "missing_required_parameter",
    "model_not_found",
    "numerical_error",
    "string_above_max_length",
    "too_deep",
    "unknown_parameter",
    "unsupported_parameter",
]
"""Every code that an error object can have; programs read them, so none changes its meaning."""


class AobatchError(Exception):
    """Anything that aobatch reports to its user in one sentence."""


class JobError(AobatchError):
    """The job cannot go on; the message says what, where and what to do."""

    exit_code = 70


class UsageError(JobError):
    """The command line or a setting is wrong."""

    exit_code = 2


class InputError(JobError):
    """An input file is not what it should be, or the state belongs to another job."""

    exit_code = 65


class InputMissingError(JobError):
    """There is no such input."""

    exit_code = 66


class ModelError(JobError):
    """A model is missing, broken, or cannot run on this machine."""

    exit_code = 69


class UnavailableModelError(ModelError):
    """A model of the catalogue was not pulled, or its terms were not accepted."""


class ModelNotFoundError(ModelError):
    """No model has that name, or what its path leads to is none; a line that names it gets 404."""


class OutputError(JobError):
    """An output cannot be created."""

    exit_code = 73


class StorageError(JobError):
    """The disk is full or failed while something was written."""

    exit_code = 74


class BusyError(JobError):
    """Another run holds the job, or the time limit came: running again resumes."""

    exit_code = 75


class AccessError(JobError):
    """A store refuses what is asked of it, or knows nobody who asks."""

    exit_code = 77


class RequestError(AobatchError):
    """One request is wrong; the four fields of its documented error object and its status."""

    def __init__(
        self, message: str, *, code: ErrorCode, param: str | None = None, status_code: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status_code = status_code

    @property
    def type(self) -> str:
        """The documented kind: who has to act."""
        return "server_error" if self.status_code >= 500 else "invalid_request_error"

    def __reduce__(self) -> tuple[object, ...]:
        fields = {"code": self.code, "param": self.param, "status_code": self.status_code}
        return partial(type(self), **fields), (self.message,)  # type: ignore[arg-type]


def unwritable_output(error: OSError) -> StorageError:
    """Say that standard output does not take what is written to it."""
    reason = error.strerror or str(error)
    return StorageError(f"standard output cannot be written: {reason}; make room and run again")
