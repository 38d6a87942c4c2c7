"""Responses: the documented completion object and the lines of a job's output."""

from collections.abc import Sequence
from hashlib import blake2b
from string import ascii_letters, digits

import msgspec

from aobatch.api.errors import ErrorObject
from aobatch.api.request import FailedLine, Identity, Request, fail
from aobatch.errors import RequestError

ID_LENGTH = 29
ID_ALPHABET = digits + ascii_letters
_PAIRS = [first + second for second in ID_ALPHABET for first in ID_ALPHABET]
"""By the remainder that gives first and then second."""
_PAIRS_A_WORD = 5
_WORD = len(_PAIRS) ** _PAIRS_A_WORD


class Logprobs(msgspec.Struct, frozen=True):
    """The legacy logprobs object: four arrays of one length, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of an echoed prompt, which nothing precedes."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Code points from the start of prompt and completion."""


class Choice(msgspec.Struct, frozen=True):
    """One completion of one prompt; the index is prompt * n + candidate."""

    text: str
    index: int
    logprobs: Logprobs | None
    finish_reason: str | None


class Usage(msgspec.Struct, frozen=True):
    """Tokens read once per prompt, and tokens drawn for every candidate."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.total_tokens + other.total_tokens,
        )


class Completion(msgspec.Struct, frozen=True, kw_only=True):
    """The documented response object; its JSON has the keys in this order."""

    id: str
    object: str = "text_completion"
    created: int
    """Seconds since 1970."""
    model: str
    """The name that was asked for."""
    choices: Sequence[Choice]
    """In the order of their indexes."""
    usage: Usage
    system_fingerprint: str


class _FailedBare(msgspec.Struct, frozen=True):
    custom_id: str | msgspec.UnsetType
    line: int
    status_code: int
    error: ErrorObject


class _Answer(msgspec.Struct, frozen=True):
    status_code: int
    request_id: str
    body: msgspec.Raw


class _Envelope(msgspec.Struct, frozen=True):
    id: str
    custom_id: str | None
    response: _Answer
    error: None = None


def completion_id(key: str) -> str:
    """Derive the id of a completion object from the request's key."""
    return f"cmpl-{_derive('completion', key)}"


def batch_request_id(key: str) -> str:
    """Derive the id of an output envelope from the request's key."""
    return f"batch_req_{_derive('batch request', key)}"


def request_id(key: str) -> str:
    """Derive the id that an output envelope gives the request from its key."""
    return f"req_{_derive('request', key)}"


def failed_line(request: Request, error: RequestError) -> FailedLine:
    """Give the failed line of a request that was right but could not be computed."""
    return fail(request.line, Identity(request.custom_id, request.is_envelope), error)


def render_success(request: Request, completion_json: bytes) -> bytes:
    """Give the output line of an encoded Completion in the style of its input line."""
    if request.is_envelope:
        return _envelope(request.key, request.custom_id, 200, completion_json)
    if request.custom_id is None:
        return completion_json
    return b'{"custom_id":' + msgspec.json.encode(request.custom_id) + b"," + completion_json[1:]


def render_failure(failed: FailedLine) -> bytes:
    """Give the output line of a failed line in the style of its input line."""
    if failed.is_envelope:
        # There may be no request and so no key: what identifies the line stands for it.
        key = f"line {failed.line} {failed.custom_id}"
        body = msgspec.json.encode({"error": failed.error})
        return _envelope(key, failed.custom_id, failed.status_code, body)
    custom_id = msgspec.UNSET if failed.custom_id is None else failed.custom_id
    bare = _FailedBare(custom_id, failed.line, failed.status_code, failed.error)
    return msgspec.json.encode(bare)


def _envelope(key: str, custom_id: str | None, status_code: int, body: bytes) -> bytes:
    answer = _Answer(status_code, request_id(key), msgspec.Raw(body))
    return msgspec.json.encode(_Envelope(batch_request_id(key), custom_id, answer))


def _derive(purpose: str, key: str) -> str:
    # 62**29 is near 2**173, so the remainders of 256 bits favour no letter by more than 2**-83.
    digest = blake2b(key.encode(), digest_size=32, person=purpose.encode())
    number = int.from_bytes(digest.digest())
    # Each response has an id: numbers of one machine word are divided ten times as fast.
    pairs: list[str] = []
    while 2 * len(pairs) < ID_LENGTH:
        number, word = divmod(number, _WORD)
        for _ in range(_PAIRS_A_WORD):
            word, index = divmod(word, len(_PAIRS))
            pairs.append(_PAIRS[index])
    return "".join(pairs)[:ID_LENGTH]
