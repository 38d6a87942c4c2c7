"""The answers that a job has so far, while it runs, when it was interrupted, and afterwards."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from aobatch.api.errors import ErrorObject
from aobatch.api.request import FailedLine
from aobatch.api.response import render_failure, render_success
from aobatch.job.config import JobConfig
from aobatch.job.ledger import Answer, is_begun, read_answers
from aobatch.job.state import StateFolder, state_path


def known_lines(output: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the output lines that are known, by their numbers, in the order of the input."""
    ledger = StateFolder(state_path(JobConfig((), output))).ledger
    if not is_begun(ledger):
        return
    for answer in read_answers(ledger):
        if answer.body is not None and answer.status_code is not None:
            yield answer.number, render(answer, answer.body, answer.status_code)


def render(answer: Answer, body: bytes, status_code: int) -> bytes:
    """Write the output line of an answer that has its result."""
    is_envelope = bool(answer.is_envelope)
    if status_code == 200 and answer.key is not None:
        return render_success(answer.key.hex(), answer.custom_id, is_envelope, body)
    error = msgspec.json.decode(body, type=ErrorObject)
    return render_failure(
        FailedLine(answer.number, answer.custom_id, is_envelope, error, status_code)
    )
