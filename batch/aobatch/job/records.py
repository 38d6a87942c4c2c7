"""Results as the ledger keeps them."""

from collections.abc import Sequence

import msgspec

from aobatch.api.errors import ErrorObject, error_object
from aobatch.api.request import Request
from aobatch.api.response import Choice, Completion, Usage, completion_id
from aobatch.engine.sequence import Result
from aobatch.errors import RequestError
from aobatch.executors import ModelIdentity
from aobatch.job.context import Job
from aobatch.job.ledger import Record


def record_of(job: Job, model: ModelIdentity, result: Result) -> Record:
    """Give the record of a result: the whole completion object, or the error object."""
    request = result.request
    if result.error is not None:
        body = msgspec.json.encode(error_object(result.error))
        return Record(request.key, result.error.status_code, body, seconds=result.seconds)
    completion = completion_of(job, model, request, result.choices, result.usage)
    return Record(
        request.key,
        200,
        msgspec.json.encode(completion),
        result.usage.prompt_tokens,
        result.usage.completion_tokens,
        result.seconds,
    )


def completion_of(
    job: Job, model: ModelIdentity, request: Request, choices: Sequence[Choice], usage: Usage
) -> Completion:
    """Write the response object of a request, or of a piece of it."""
    return Completion(
        id=completion_id(request.key),
        created=job.created,
        model=job.models.asked_name(request.body.model) or model.name,
        choices=choices,
        usage=usage,
        system_fingerprint=model.fingerprint,
    )


def stored_error(record: Record) -> RequestError:
    """Give the error of a failed request as it was recorded."""
    error = msgspec.json.decode(record.body, type=ErrorObject)
    return RequestError(
        error.message, code=error.code, param=error.param, status_code=record.status_code
    )
