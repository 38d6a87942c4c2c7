"""Responses: the documented completion object and the lines of a job's output."""

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from string import ascii_letters, digits
from types import MappingProxyType

import msgspec

from aobatch.api.request import FailedLine, Request

_LINE_ENDS = tuple((end.encode(), f"\\u{ord(end):04x}".encode()) for end in "\u0085\u2028\u2029")
"""What strings of JSON may have, and Python's splitlines and others take for a line end."""
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


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token of a chat's answer, as likely as it was."""

    token: str
    bytes: list[int]
    logprob: float


class ListedLogprob(msgspec.Struct, frozen=True):
    """A token that was drawn, with the most probable ones in its place, the best first."""

    token: str
    bytes: list[int]
    logprob: float
    top_logprobs: list[TokenLogprob]


class ChatLogprobs(msgspec.Struct, frozen=True):
    """The logprobs object of a chat's choice, an entry a token."""

    content: list[ListedLogprob]
    refusal: None = None


class ChatMessage(msgspec.Struct, frozen=True):
    """What a model answers."""

    role: str
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer to a conversation."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """A piece of an answer; the first one of a choice says the role."""

    role: str | None = None
    content: str | None = None


class ChunkChoice(msgspec.Struct, frozen=True):
    """A piece of one choice in a stream."""

    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(msgspec.Struct, frozen=True, kw_only=True):
    """The documented response object of a chat."""

    id: str
    object: str = "chat.completion"
    created: int
    model: str
    choices: Sequence[ChatChoice]
    usage: Usage
    system_fingerprint: str


class Origin(msgspec.Struct, frozen=True):
    """What all responses of a job that ask for one model have in common."""

    created: int
    model: str
    """The name that was asked for."""
    system_fingerprint: str


ASSISTANT = "assistant"


def response_of(
    request: Request, choices: Sequence[Choice], usage: Usage, origin: Origin
) -> Completion | ChatCompletion:
    """Write the response object of a request."""
    if not request.is_chat:
        return Completion(
            id=completion_id(request.key),
            created=origin.created,
            model=origin.model,
            choices=choices,
            usage=usage,
            system_fingerprint=origin.system_fingerprint,
        )
    answers = [
        ChatChoice(
            choice.index,
            ChatMessage(ASSISTANT, choice.text),
            _chat_logprobs(request, choice),
            choice.finish_reason,
        )
        for choice in choices
    ]
    return ChatCompletion(
        id=chat_completion_id(request.key),
        created=origin.created,
        model=origin.model,
        choices=answers,
        usage=usage,
        system_fingerprint=origin.system_fingerprint,
    )


def encode_chunk(
    request: Request,
    choices: Sequence[Choice],
    usage: Usage | None,
    origin: Origin,
    *,
    is_first: bool = False,
) -> bytes:
    """Write a piece of a stream as JSON; without usage it has that key only if it is asked for.

    The first piece of each choice of a chat says whose words follow.
    """
    whole = response_of(request, choices, usage or Usage(0, 0, 0), origin)
    chunk = msgspec.structs.asdict(whole)
    if isinstance(whole, ChatCompletion):
        role = ASSISTANT if is_first else None
        chunk["object"] = "chat.completion.chunk"
        chunk["choices"] = [
            ChunkChoice(
                answer.index,
                ChatDelta(role, answer.message.content if answer.message.content or role else None),
                answer.logprobs,
                answer.finish_reason,
            )
            for answer in whole.choices
        ]
    if request.body.include_usage:
        chunk["usage"] = usage  # null in every chunk but the last
    else:
        del chunk["usage"]
    return msgspec.json.encode(chunk)


_BYTES = re.compile(r"bytes:((?:\\x[0-9a-f]{2})+)")


def _chat_logprobs(request: Request, choice: Choice) -> ChatLogprobs | None:
    """Write the arrays of a completion as the list of a chat."""
    if choice.logprobs is None:
        return None
    return ChatLogprobs(
        [
            ListedLogprob(name, _bytes_of(name), logprob or 0.0, _best(request, top or {}))
            for name, logprob, top in zip(
                choice.logprobs.tokens,
                choice.logprobs.token_logprobs,
                choice.logprobs.top_logprobs,
                strict=True,
            )
        ]
    )


def _best(request: Request, top: Mapping[str, float]) -> list[TokenLogprob]:
    """Order the alternatives; the drawn token, which stands there too, is one only if it is."""
    ordered = sorted(top.items(), key=lambda item: -item[1])[: request.body.logprobs or 0]
    return [TokenLogprob(name, _bytes_of(name), logprob) for name, logprob in ordered]


def _bytes_of(name: str) -> list[int]:
    """Read the bytes of a token from its name, which says them where they are no text."""
    written = _BYTES.fullmatch(name)
    return list(bytes.fromhex(written[1].replace("\\x", "")) if written else name.encode())


def chat_completion_id(key: str) -> str:
    """Derive the id of a chat completion object from the request's key."""
    return f"chatcmpl-{_derive('chat', key)}"


END_OF_EVENTS = b"[DONE]"
"""What the last event of a stream says."""


def render_event(data: bytes) -> bytes:
    """Write a server-sent event."""
    return b"data: " + one_line(data) + b"\n\n"


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
    completion_json = one_line(completion_json)
    if is_envelope:
        return _envelope(key, custom_id, 200, completion_json)
    if custom_id is None:
        return completion_json
    return b'{"custom_id":' + _encoded(custom_id) + b"," + completion_json[1:]


def render_failure(failed: FailedLine) -> bytes:
    """Write the output line of a failed line in the style of its input line."""
    if failed.is_envelope:
        # There may be no request and so no key: what identifies the line stands for it.
        key = f"line {failed.line} {failed.custom_id}"
        body = _encoded({"error": failed.error})
        place = _place(failed) if failed.custom_id is None else {}
        return _envelope(key, failed.custom_id, failed.status_code, body, place)
    fields = {**_place(failed), "status_code": failed.status_code, "error": failed.error}
    identity = {} if failed.custom_id is None else {"custom_id": failed.custom_id}
    return _encoded(identity | fields)


def _place(failed: FailedLine) -> dict[str, object]:
    """Say where a line is: in which file too, if there are several."""
    if failed.file is None:
        return {"line": failed.line}
    return {"file": failed.file, "line": failed.line_in_file}


def one_line(record: bytes) -> bytes:
    """Escape what a reader of lines may take for a line end; the JSON says the same."""
    if not record.isascii():
        for end, escaped in _LINE_ENDS:
            record = record.replace(end, escaped)
    return record


def _encoded(value: object) -> bytes:
    return one_line(msgspec.json.encode(value))


def _envelope(
    key: str,
    custom_id: str | None,
    status_code: int,
    body: bytes,
    place: Mapping[str, object] = MappingProxyType({}),
) -> bytes:
    response = {
        "status_code": status_code,
        "request_id": request_id(key),
        "body": msgspec.Raw(body),
    }
    envelope = {
        "id": batch_request_id(key),
        "custom_id": custom_id,
        **place,
        "response": response,
        "error": None,
    }
    return _encoded(envelope)


def _derive(purpose: str, key: str) -> str:
    # 62**29 is near 2**173, so the remainders of 256 bits favour no letter by more than 2**-83.
    digest = blake2b(key.encode(), digest_size=32, person=purpose.encode())
    number, letters = int.from_bytes(digest.digest()), ""
    for _ in range(ID_LENGTH):
        number, index = divmod(number, len(ID_ALPHABET))
        letters += ID_ALPHABET[index]
    return letters
