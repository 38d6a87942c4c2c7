"""One request without a job: no files, no state."""

import json
import time
from collections.abc import Mapping

from aobatch.api.request import FailedLine, Limits, Parser
from aobatch.api.response import Completion, completion_id
from aobatch.engine.streaming import Listener
from aobatch.errors import JobError, ModelError, RequestError, UsageError
from aobatch.executors import Backend


def complete_one(
    body: Mapping[str, object], backend: Backend, listener: Listener | None = None
) -> Completion:
    """Compute one body as a line of a job would be; the listener gets the pieces of a stream.

    UsageError says what is wrong with the body, ModelError that its model is not there.
    """
    request = Parser({}, Limits()).parse(1, json.dumps(body).encode())
    if isinstance(request, FailedLine):
        raise UsageError(request.error.message)
    try:
        model = backend.resolve(request.body.model)
    except RequestError as error:
        raise ModelError(error.message) from error
    with backend.open(model) as executor:
        (result,) = executor.run([request], listener)
    if result.error is not None:
        is_ours = result.error.status_code >= 500
        raise (JobError if is_ours else UsageError)(result.error.message)
    return Completion(
        id=completion_id(request.key),
        created=int(time.time()),
        model=request.body.model or model.name,
        choices=result.choices,
        usage=result.usage,
        system_fingerprint=model.fingerprint,
    )
