"""The endpoint: which path does what, who may pass, and how whatever goes wrong is told."""

import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, fields

import msgspec
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aobatch.api.errors import engine_crash, error_object, model_not_found
from aobatch.api.request import CHAT_ENDPOINT, ENDPOINT
from aobatch.errors import JobError, RequestError
from aobatch.serve.batches import Batches
from aobatch.serve.completions import Asked, Desk, chunks_of, read_json
from aobatch.serve.files import Files, page
from aobatch.serve.guard import HttpError, Keys, is_loopback, new_id

OPEN_PATHS = ("/health", "/metrics")
"""They need no key, and answer also while the server starts or stops."""

log = logging.getLogger("aobatch.serve")


@dataclass(slots=True)
class Gateway:
    """What a server consists of, and how it is."""

    desk: Desk
    files: Files
    batches: Batches
    keys: Keys
    max_file_bytes: int
    checks_host: bool
    """Whether only this machine may ask: pages of other hosts that a browser shows may not."""
    state: str = "loading"
    """Then ready, and in the end stopping."""
    num_open: int = 0
    """Requests that are being answered, those of the open paths not counted."""
    answered: Counter[tuple[str, int]] = field(default_factory=Counter)
    """Responses by path and status."""


def build_app(gateway: Gateway) -> ASGIApp:
    """Make the application of a gateway."""
    routes = {
        ("POST", ENDPOINT): create_completion,
        ("POST", CHAT_ENDPOINT): create_completion,
        ("GET", "/v1/models"): list_models,
        ("GET", "/v1/models/{name:path}"): show_model,
        ("POST", "/v1/files"): upload_file,
        ("GET", "/v1/files"): list_files,
        ("GET", "/v1/files/{file}"): show_file,
        ("DELETE", "/v1/files/{file}"): delete_file,
        ("GET", "/v1/files/{file}/content"): send_file,
        ("POST", "/v1/batches"): create_batch,
        ("GET", "/v1/batches"): list_batches,
        ("GET", "/v1/batches/{batch}"): show_batch,
        ("POST", "/v1/batches/{batch}/cancel"): cancel_batch,
        ("GET", "/health"): show_health,
        ("GET", "/metrics"): show_metrics,
    }
    app = Starlette(
        routes=[Route(path, bound(f, gateway), methods=[m]) for (m, path), f in routes.items()],
        exception_handlers={
            HttpError: tell_refusal,
            RequestError: tell_fault,
            HTTPException: tell_no_route,
            JobError: tell_defect,
            Exception: tell_defect,
        },
    )
    return Gate(app, gateway)


Endpoint = Callable[[Gateway, Request], Awaitable[ASGIApp]]


def bound(endpoint: Endpoint, gateway: Gateway) -> Callable[[Request], Awaitable[ASGIApp]]:
    """Give an endpoint its gateway."""

    async def answer(request: Request) -> ASGIApp:
        return await endpoint(gateway, request)

    return answer


class Gate:
    """Lets requests pass with an id of their own, or answers why they may not."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app, self._gateway = app, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and add the headers that every response has."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        gateway, is_counted = self._gateway, scope["path"] not in OPEN_PATHS
        request_id, started = new_id("req_"), time.monotonic()
        scope["state"] = {"account": "", "headers": {"x-request-id": request_id}}
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                added = dict(scope["state"]["headers"])
                added["openai-processing-ms"] = f"{(time.monotonic() - started) * 1000:.0f}"
                pairs = [(name.encode(), value.encode()) for name, value in added.items()]
                message["headers"] = [*message.get("headers", ()), *pairs]
            await send(message)

        gateway.num_open += is_counted
        try:
            await (self._refusal(scope) or self._app)(scope, receive, sent)
        except (ClientDisconnect, TimeoutError):
            pass  # whoever asked has gone away
        except Exception:
            log.exception("request %s failed", request_id)
        finally:
            gateway.num_open -= is_counted
            route = scope.get("route")
            gateway.answered[getattr(route, "path", "other"), status] += 1

    def _refusal(self, scope: Scope) -> Response | None:
        gateway, headers = self._gateway, Headers(scope=scope)
        if scope["path"] in OPEN_PATHS:
            return None
        try:
            if gateway.checks_host:
                check_host(headers)
            scope["state"]["account"] = gateway.keys.check(headers.get("authorization"))
            if gateway.state != "ready":
                message = f"The server is {gateway.state}. Try again in a few seconds."
                waits = {"retry-after": "2"}
                raise HttpError(503, f"server_{gateway.state}", message, headers=waits)  # noqa: TRY301
        except HttpError as error:
            return refusal_of(error)
        return None


def check_host(headers: Headers) -> None:
    """Refuse what a page of another host makes a browser ask; HttpError, 403."""
    origins = headers.get("origin", ""), f"//{headers.get('host', '')}"
    hosts = [origin.rpartition("//")[2].rpartition(":") for origin in origins]
    names = [
        before if after.isdecimal() else before + colon + after for before, colon, after in hosts
    ]
    if any(name and not is_loopback(name) for name in names):
        message = "Without keys, this server answers this machine alone."
        raise HttpError(403, "forbidden_host", message)


def as_json(value: object, status_code: int = 200) -> Response:
    """Make a response of a value."""
    return Response(msgspec.json.encode(value), status_code, media_type="application/json")


def refusal_of(error: HttpError) -> Response:
    """Write the error object of a refusal."""
    body = msgspec.json.encode({"error": error.fields})
    return Response(body, error.status_code, error.headers, media_type="application/json")


async def tell_refusal(_: Request, error: Exception) -> Response:
    """Tell what is no fault of a body."""
    assert isinstance(error, HttpError)
    return refusal_of(error)


async def tell_fault(_: Request, error: Exception) -> Response:
    """Tell what is wrong with a request, as a line of a file would have it."""
    assert isinstance(error, RequestError)
    return as_json({"error": error_object(error)}, error.status_code)


async def tell_no_route(request: Request, error: Exception) -> Response:
    """Tell that a path or a method is none of this server's."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code)
    message = f"{error.detail}: {request.method} {request.url.path[:200]}"
    return refusal_of(HttpError(error.status_code, code, message, headers=error.headers))


async def tell_defect(_: Request, error: Exception) -> Response:
    """Tell of a disk that failed, or of a defect, whose words are for the log alone."""
    if isinstance(error, JobError):
        log.error("%s", error)
    return as_json({"error": error_object(engine_crash())}, 500)


async def create_completion(gateway: Gateway, request: Request) -> ASGIApp:
    """Complete prompts, or answer a chat."""
    is_chat, state = request.url.path == CHAT_ENDPOINT, request.state
    asked = Asked(is_chat, state.account, state.headers)
    return await gateway.desk.take(await read_json(request), asked)


def model_object(name: str) -> dict[str, object]:
    """Describe a model in OpenAI's fields."""
    return {"id": name, "object": "model", "created": 0, "owned_by": "aobatch"}


async def list_models(gateway: Gateway, _: Request) -> ASGIApp:
    """List the models and aliases that requests may name."""
    names = await run_in_threadpool(gateway.desk.models.names)
    return as_json({"object": "list", "data": [model_object(name) for name in names]})


async def show_model(gateway: Gateway, request: Request) -> ASGIApp:
    """Describe a model; 404 if there is none of the name."""
    name = request.path_params["name"]
    if name not in await run_in_threadpool(gateway.desk.models.names):
        reason = f"The model '{name[:64]}' does not exist."
        raise model_not_found(reason)
    return as_json(model_object(name))


async def upload_file(gateway: Gateway, request: Request) -> ASGIApp:
    """Keep a file for a batch."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        message = "Send a form, `Content-Type: multipart/form-data`, with a file and a purpose."
        raise HttpError(415, "unsupported_media_type", message)
    admit(gateway, request)
    chunks = chunks_of(request, gateway.max_file_bytes)
    return as_json(await gateway.files.upload(request.headers, chunks))


async def list_files(gateway: Gateway, request: Request) -> ASGIApp:
    """List files, all or those of a purpose."""
    query = request.query_params
    purpose = query.get("purpose")
    found = [file for file in gateway.files.all() if purpose in {None, file.purpose}]
    return as_json(page(found, query, most=10_000, usual=10_000))


async def show_file(gateway: Gateway, request: Request) -> ASGIApp:
    """Describe a file."""
    return as_json(gateway.files.find(request.path_params["file"]))


async def delete_file(gateway: Gateway, request: Request) -> ASGIApp:
    """Delete a file that no batch needs any more."""
    file = gateway.files.find(request.path_params["file"])
    if gateway.batches.uses(file.id):
        message = f"A batch is at work on file {file.id}."
        raise HttpError(409, "file_in_use", message, param="file_id")
    await run_in_threadpool(gateway.files.delete, file)
    return as_json({"id": file.id, "object": "file", "deleted": True})


async def send_file(gateway: Gateway, request: Request) -> ASGIApp:
    """Send what a file holds."""
    file = gateway.files.find(request.path_params["file"])
    path = gateway.files.path(file)
    return FileResponse(path, media_type="application/jsonl", filename=file.filename or None)


async def create_batch(gateway: Gateway, request: Request) -> ASGIApp:
    """Begin a batch."""
    body = await read_json(request)
    admit(gateway, request)
    return as_json(await run_in_threadpool(gateway.batches.create, body))


async def list_batches(gateway: Gateway, request: Request) -> ASGIApp:
    """List batches."""
    return as_json(page(gateway.batches.all(), request.query_params, most=100, usual=20))


async def show_batch(gateway: Gateway, request: Request) -> ASGIApp:
    """Say how far a batch is."""
    return as_json(await run_in_threadpool(gateway.batches.find, request.path_params["batch"]))


async def cancel_batch(gateway: Gateway, request: Request) -> ASGIApp:
    """Stop a batch."""
    return as_json(await run_in_threadpool(gateway.batches.cancel, request.path_params["batch"]))


def admit(gateway: Gateway, request: Request) -> None:
    """Count a request for the limits of its key; HttpError, 429, if they are reached."""
    request.state.headers |= gateway.desk.limits.admit(request.state.account)


async def show_health(gateway: Gateway, _: Request) -> ASGIApp:
    """Say whether requests are answered."""
    return as_json({"status": gateway.state}, 200 if gateway.state == "ready" else 503)


async def show_metrics(gateway: Gateway, _: Request) -> ASGIApp:
    """Write the metrics in the text format of Prometheus."""
    lines = [f"aobatch_{name} {value}" for name, value in metrics_of(gateway)]
    return PlainTextResponse("\n".join([*lines, ""]))


def metrics_of(gateway: Gateway) -> Iterator[tuple[str, float]]:
    """Yield each metric with its labels, and its value."""
    desk, tally = gateway.desk, gateway.desk.tally
    engines = desk.models.open_engines()
    yield "up", int(gateway.state == "ready")
    yield "http_requests_open", gateway.num_open
    yield "completions_open", len(desk.under_way)
    yield "completions_given_up_total", tally.num_given_up
    for (path, status), count in sorted(gateway.answered.items()):
        yield f'http_responses_total{{path="{path}",status="{status}"}}', count
    rejected = sum(count for (_, status), count in gateway.answered.items() if status == 429)
    yield "http_requests_rejected_total", rejected
    for kind in ("prompt", "completion"):
        yield f'tokens_total{{kind="{kind}"}}', getattr(tally, f"{kind}_tokens")
    for step, count in Counter(batch.status for batch in gateway.batches.all()).items():
        yield f'batches{{status="{step}"}}', count
    for name, engine in engines.items():
        label = f'{{model="{name}"}}'
        running, waiting = engine.occupancy
        yield f"sequences_running{label}", running
        yield f"sequences_waiting{label}", waiting
        for item in fields(counted := engine.statistics):
            yield f"engine_{item.name}_total{label}", getattr(counted, item.name)
