"""Output records as rows of a table: the first choice, its tokens, or the error."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

import msgspec

from aobatch.api.response import Usage

CUSTOM_ID, RESPONSE = "custom_id", "response"
COLUMNS: Final = (
    *(CUSTOM_ID, "index", "text", "finish_reason", "prompt_tokens", "completion_tokens"),
    *("error_code", "error_message"),
)
"""What every table of answers has; Parquet has the whole record in `response` as well."""

GROUP_ROWS = 2**16
GROUP_BYTES = 32 * 2**20


class _Message(msgspec.Struct):
    content: str


class _Choice(msgspec.Struct):
    finish_reason: str | None
    text: str = ""
    message: _Message | None = None


class _Error(msgspec.Struct):
    code: str | None
    message: str


class _Body(msgspec.Struct):
    choices: list[_Choice] = []
    usage: Usage | None = None
    error: _Error | None = None


class _Answer(msgspec.Struct):
    body: _Body


class _Line(_Body):
    """An output line of either style; a bare one is its own body."""

    custom_id: str | None = None
    response: _Answer | None = None


def grouped(records: Iterable[bytes]) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of output records, some megabytes of records at a time."""
    decoder = msgspec.json.Decoder(_Line)
    rows: list[dict[str, Any]] = []
    num_bytes = 0
    for index, record in enumerate(records):
        rows.append(_row_of(decoder.decode(record), index, record))
        num_bytes += len(record)
        if num_bytes >= GROUP_BYTES or len(rows) == GROUP_ROWS:
            yield rows
            rows, num_bytes = [], 0
    if rows:
        yield rows


def _row_of(line: _Line, index: int, record: bytes) -> dict[str, Any]:
    body = line if line.response is None else line.response.body
    error = body.error or line.error
    choice = body.choices[0] if body.choices else None
    return {
        CUSTOM_ID: line.custom_id,
        "index": index,
        "text": choice and (choice.message.content if choice.message else choice.text),
        "finish_reason": choice and choice.finish_reason,
        "prompt_tokens": body.usage and body.usage.prompt_tokens,
        "completion_tokens": body.usage and body.usage.completion_tokens,
        "error_code": error and error.code,
        "error_message": error and error.message,
        RESPONSE: record,
    }
