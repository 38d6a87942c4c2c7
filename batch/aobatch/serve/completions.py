"""`POST /v1/completions`: one request, answered whole or as a stream while its tokens come."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from aobatch.api import errors
from aobatch.api.errors import error_object
from aobatch.api.json_line import decode_line
from aobatch.api.request import Limits, Request
from aobatch.api.response import (
    END_OF_EVENTS,
    Choice,
    Origin,
    Usage,
    encode_chunk,
    render_event,
    response_of,
)
from aobatch.api.validation import BodyValidator
from aobatch.engine.sequence import Result
from aobatch.engine.streaming import Delta
from aobatch.errors import BusyError, ModelError, RequestError
from aobatch.executors import ModelIdentity
from aobatch.formats import MAX_LINE_BYTES
from aobatch.serve.engines import Heard, Models, SharedEngine
from aobatch.serve.guard import HttpError
from aobatch.serve.guard import Limits as RateLimits

BODY_SECONDS = 30.0
"""A client that sends nothing for so long has gone away, whatever its connection says."""
SEND_SECONDS = 60.0
"""So has one that takes nothing of its stream."""
SOON = 2**16
"""Bodies of fewer bytes are read at once, longer ones beside the other connections."""
CHARACTERS_A_TOKEN = 4
"""A guess, until a prompt is tokenised."""

CLOSE = {"connection": "close"}
"""For responses ahead of the end of a body, of which nothing more is read."""

_VALIDATOR = BodyValidator({}, Limits(), ignores_unknown=False)


async def chunks_of(request: HttpRequest, max_bytes: int) -> AsyncGenerator[bytes, None]:
    """Yield a body as it comes; HttpError if it is too long, or stops coming."""
    message = f"The body has more than {max_bytes} bytes."
    too_large = HttpError(413, "request_too_large", message, headers=CLOSE)
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated) > max_bytes:
        raise too_large
    total, stream = 0, request.stream()
    while True:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            message = f"Nothing of the body came for {BODY_SECONDS:g} seconds."
            raise HttpError(408, "request_timeout", message, headers=CLOSE) from None
        if chunk is None:
            return
        total += len(chunk)
        if total > max_bytes:
            raise too_large
        yield chunk


async def read_json(request: HttpRequest) -> dict[str, object]:
    """Read a body that is to be a JSON object; HttpError or RequestError if it is none."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        message = f"Send the header `Content-Type: application/json`, not {kind[:64]!r}."
        raise HttpError(415, "unsupported_media_type", message)
    raw = b"".join([chunk async for chunk in chunks_of(request, MAX_LINE_BYTES)])
    return _fields_of(raw) if len(raw) < SOON else await run_in_threadpool(_fields_of, raw)


def _fields_of(raw: bytes) -> dict[str, object]:
    try:
        decoded = decode_line(raw)
        decoded.check()
    except RequestError as error:  # it is worded for lines of files
        error.message = error.message.replace("This line", "The body", 1)
        raise
    return decoded.fields


@dataclass(slots=True)
class Tally:
    """What became of requests, as the metrics tell it."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    num_given_up: int = 0
    """Requests whose client went away."""


@dataclass(frozen=True, slots=True)
class Charge:
    """Tokens that a request has asked for, taken off the minute of its key."""

    limits: RateLimits
    key: str
    tokens: int

    def settle(self, used: int) -> None:
        """Give back what was not used."""
        self.limits.settle(self.key, self.tokens, used)


@dataclass(frozen=True, slots=True)
class Asked:
    """Who asks for what."""

    is_chat: bool
    key: str
    """The name of the client's key."""
    headers: dict[str, str]
    """Those of the response, to which the limits' are added."""


@dataclass(frozen=True, slots=True)
class Desk:
    """Takes requests that somebody waits for."""

    models: Models
    limits: RateLimits
    max_open: int
    """So many requests may be computed or wait."""
    tally: Tally = field(default_factory=Tally)
    under_way: set[str] = field(default_factory=set)
    """The keys of requests."""

    async def take(self, fields: Mapping[str, object], asked: Asked) -> "Answer":
        """Admit the request of a body; RequestError or HttpError says why not."""
        body = (_VALIDATOR.validate_chat if asked.is_chat else _VALIDATOR.validate)(fields)
        if len(self.under_way) >= self.max_open:
            message = "Too many requests wait. Try again in a second."
            raise _overloaded(message)
        # Of what has no tokenizer yet, a guess.
        sizes = [len(p) // CHARACTERS_A_TOKEN + body.max_tokens * body.n for p in body.prompts]
        charge = Charge(self.limits, asked.key, sum(sizes))
        asked.headers.update(self.limits.admit(asked.key, charge.tokens))
        try:
            model, engine = await self._open(body.model)
        except BaseException:
            charge.settle(0)
            raise
        # Equal requests draw anew each time, unless they give a seed.
        request = Request(0, None, False, body, secrets.token_hex(16), is_awaited=True)
        return Answer(self, request, model, engine, charge)

    async def _open(self, name: str | None) -> tuple[ModelIdentity, SharedEngine]:
        models = self.models
        try:
            if name in models.own_names:
                return models.own, models.acquire(models.own, waits=False)
            model = await run_in_threadpool(models.find, name)
            return model, await run_in_threadpool(models.acquire, model, waits=False)
        except BusyError as error:
            raise _overloaded(str(error)) from error
        except ModelError as error:
            raise HttpError(404, "model_not_found", str(error), param="model") from error


def _overloaded(message: str) -> HttpError:
    headers = {"retry-after": "1"}
    return HttpError(429, "server_overloaded", message, kind="server_error", headers=headers)


class Answer:
    """Computes a request while its client is there, and sends the response or its stream."""

    def __init__(
        self,
        desk: Desk,
        request: Request,
        model: ModelIdentity,
        engine: SharedEngine,
        charge: Charge,
    ) -> None:
        self._desk, self._request, self._model, self._engine = desk, request, model, engine
        self._charge = charge
        name = request.body.model or desk.models.name or model.name
        self._origin = Origin(int(time.time()), name, model.fingerprint)
        self._heard: asyncio.Queue[Heard] = asyncio.Queue()
        desk.under_way.add(request.key)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, and give the request up if the client goes away before the end."""
        loop = asyncio.get_running_loop()

        def hear(heard: Heard) -> None:
            with suppress(RuntimeError):  # the server has ended
                loop.call_soon_threadsafe(self._heard.put_nowait, heard)

        self._engine.submit([self._request], hear)
        answering = asyncio.ensure_future(self._answer(scope, receive, send))
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                self._desk.tally.num_given_up += 1
                raise ClientDisconnect
            answering.result()
        finally:
            for task in (answering, leaving):
                task.cancel()
            self._engine.cancel([self._request])
            self._desk.models.release(self._engine)
            self._desk.under_way.discard(self._request.key)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        heard = await self._heard.get()
        if self._request.body.stream and not _fault_of(heard):
            await self._stream(send, heard)
            return
        usage = self._end(heard)
        choices = heard.choices if isinstance(heard, Result) else ()
        whole = response_of(self._request, choices, usage, self._origin)
        response = Response(msgspec.json.encode(whole), media_type="application/json")
        async with asyncio.timeout(SEND_SECONDS):
            await response(scope, receive, send)

    async def _stream(self, send: Send, heard: Heard) -> None:
        """Send pieces as they come; what fails behind the first is told in the stream."""
        kind, begun = b"text/event-stream; charset=utf-8", set[int]()
        headers = [(b"content-type", kind), (b"cache-control", b"no-cache")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        while isinstance(heard, Delta):
            is_first = heard.choice.index not in begun
            begun.add(heard.choice.index)
            await _send(send, self._chunk([heard.choice], None, is_first=is_first))
            heard = await self._heard.get()
        try:
            usage = self._end(heard)
        except RequestError as fault:
            await _send(send, msgspec.json.encode({"error": error_object(fault)}))
        else:
            if self._request.body.include_usage:
                await _send(send, self._chunk([], usage))
        await _send(send, END_OF_EVENTS, is_last=True)

    def _chunk(
        self, choices: Sequence[Choice], usage: Usage | None, *, is_first: bool = False
    ) -> bytes:
        return encode_chunk(self._request, choices, usage, self._origin, is_first=is_first)

    def _end(self, heard: Heard) -> Usage:
        """Count what a request took; RequestError if it failed."""
        fault = _fault_of(heard)
        usage = heard.usage if isinstance(heard, Result) else Usage(0, 0, 0)
        self._charge.settle(usage.total_tokens)
        self._desk.tally.prompt_tokens += usage.prompt_tokens
        self._desk.tally.completion_tokens += usage.completion_tokens
        if fault is not None:
            raise fault
        return usage


def _fault_of(heard: Heard) -> RequestError | None:
    if isinstance(heard, Exception):
        return errors.engine_crash()
    return heard.error if isinstance(heard, Result) else None


async def _send(send: Send, data: bytes, *, is_last: bool = False) -> None:
    event = {"type": "http.response.body", "body": render_event(data), "more_body": not is_last}
    async with asyncio.timeout(SEND_SECONDS):
        await send(event)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
