"""Responses: the documented completion object and the lines of a job's output."""

from collections.abc import Sequence
from hashlib import blake2b
from string import ascii_letters, digits

import msgspec

from aobatch.api.request import FailedLine

ID_LENGTH = 29
ID_ALPHABET = digits + ascii_letters


class Logprobs(msgspec.Struct, frozen=True):
    """The legacy logprobs object: four arrays of one length, an entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    """Null for the first token of an echoed prompt, which nothing precedes."""
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]
    """Code points from the start of prompt and completion."""

    def behind(self, count: int) -> "Logprobs":
        """Leave the first entries out."""
        return Logprobs(*(array[count:] for array in msgspec.structs.astuple(self)))


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


def completion_id(key: str) -> str:
    """Derive the id of a completion object from the request's key."""
    return f"cmpl-{_derive('completion', key)}"


def batch_request_id(key: str) -> str:
    """Derive the id of an output envelope from the request's key."""
    return f"batch_req_{_derive('batch request', key)}"


def request_id(key: str) -> str:
    """Derive the id that an output envelope gives the request from its key."""
    return f"req_{_derive('request', key)}"


def render_success(
    key: str, custom_id: str | None, is_envelope: bool, completion_json: bytes
) -> bytes:
    """Write the output line of an encoded Completion in the style of its input line."""
    if is_envelope:
        return _envelope(key, custom_id, 200, completion_json)
    if custom_id is None:
        return completion_json
    return b'{"custom_id":' + msgspec.json.encode(custom_id) + b"," + completion_json[1:]


def render_failure(failed: FailedLine) -> bytes:
    """Write the output line of a failed line in the style of its input line."""
    if failed.is_envelope:
        # There may be no request and so no key: what identifies the line stands for it.
        key = f"line {failed.line} {failed.custom_id}"
        body = msgspec.json.encode({"error": failed.error})
        return _envelope(key, failed.custom_id, failed.status_code, body)
    fields = {"line": failed.line, "status_code": failed.status_code, "error": failed.error}
    identity = {} if failed.custom_id is None else {"custom_id": failed.custom_id}
    return msgspec.json.encode(identity | fields)


def _envelope(key: str, custom_id: str | None, status_code: int, body: bytes) -> bytes:
    response = {
        "status_code": status_code,
        "request_id": request_id(key),
        "body": msgspec.Raw(body),
    }
    envelope = {
        "id": batch_request_id(key),
        "custom_id": custom_id,
        "response": response,
        "error": None,
    }
    return msgspec.json.encode(envelope)


def _derive(purpose: str, key: str) -> str:
    # 62**29 is near 2**173, so the remainders of 256 bits favour no letter by more than 2**-83.
    digest = blake2b(key.encode(), digest_size=32, person=purpose.encode())
    number, letters = int.from_bytes(digest.digest()), ""
    for _ in range(ID_LENGTH):
        number, index = divmod(number, len(ID_ALPHABET))
        letters += ID_ALPHABET[index]
    return letters
