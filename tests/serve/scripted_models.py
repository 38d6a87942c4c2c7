"""Models without weights, as a server finds them, and the application that serves them."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from starlette.testclient import TestClient
from waiting import wait_until

from aobatch.engine.config import EngineConfig
from aobatch.engine.engine import Engine
from aobatch.errors import UnavailableModelError
from aobatch.executors import Executor, ModelIdentity
from aobatch.executors.local import LocalExecutor
from aobatch.models.store.catalogue import ModelRow, not_found
from aobatch.models.store.locate import Place
from aobatch.serve.app import Gateway
from aobatch.serve.engines import Models
from aobatch.testing import Script, random_script, scripted_engine

NAMES = {"scripted": ("gpt-3.5-turbo-instruct",), "second": (), "third": ()}


@dataclass
class ScriptedBackend:
    """Places where a job finds scripted models."""

    script: Script = random_script
    config: EngineConfig | None = None
    survives_requests = False
    settings: Mapping[str, object] = ()  # type: ignore[assignment]

    def __post_init__(self) -> None:
        self.settings = {"seed": 0}

    def resolve(self, name: str | None, _began: str = "") -> ModelIdentity:
        """Find a model by a name or an alias."""
        for own, aliases in NAMES.items():
            if name == "third":
                message = "model third is not here yet; get it with `aobatch models pull third`"
                raise UnavailableModelError(message)
            if name in (None, own, *aliases):
                return ModelIdentity(own, f"fp_{own}", Path(own))
        raise not_found(str(name), Place(Path(str(name))), NAMES)

    def load(self, _: ModelIdentity) -> Engine:
        """Open a model."""
        return scripted_engine(self.script, self.config)

    @contextmanager
    def open(self, model: ModelIdentity) -> Iterator[Executor]:
        """Open a model, for a job."""
        yield LocalExecutor(self.load(model))


def rows() -> list[ModelRow]:
    """List the models."""
    return [
        ModelRow(name, aliases, name == "scripted", name != "third", "int8", "", 1, "")
        for name, aliases in NAMES.items()
    ]


def scripted_models(script: object = None, config: object = None) -> Models:
    """Give a server's models."""
    backend = ScriptedBackend(script or random_script, config)  # type: ignore[arg-type]
    return Models(backend, backend.load, None, rows)


@dataclass
class Rig:
    """An application and what asks it."""

    client: TestClient
    gateway: Gateway

    def complete(self, headers: Mapping[str, str] | None = None, **body: object) -> httpx.Response:
        """Ask for a completion."""
        return self.client.post("/v1/completions", json=body, headers=headers)

    def upload(self, content: bytes, **options: object) -> httpx.Response:
        """Upload a file for a batch."""
        files = {"file": ("poems.jsonl", content)}
        return self.client.post("/v1/files", files=files, data={"purpose": "batch"}, **options)

    def begin(self, content: bytes, window: str = "24h", **fields: object) -> str:
        """Upload a file and begin a batch."""
        file_id = self.upload(content).json()["id"]
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/completions",
            "completion_window": window,
            **fields,
        }
        answer = self.client.post("/v1/batches", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()["id"]

    def batch(self, name: str) -> dict[str, object]:
        """Ask how far a batch is."""
        return self.client.get(f"/v1/batches/{name}").json()

    def ended(self, name: str) -> dict[str, object]:
        """Wait until a batch is at its end."""
        ends = {"completed", "failed", "cancelled", "expired"}
        wait_until(lambda: self.batch(name)["status"] in ends)
        return self.batch(name)

    def content(self, file_id: object) -> bytes:
        """Download a file."""
        return self.client.get(f"/v1/files/{file_id}/content").content


Serve = Callable[..., Rig]
"""Opens applications, with options of ServeConfig."""


def envelopes(*bodies: Mapping[str, object]) -> bytes:
    """Write the lines of a batch."""
    return b"".join(envelope(f"r{number}", body) for number, body in enumerate(bodies))


def envelope(custom_id: str, body: Mapping[str, object]) -> bytes:
    """Write a line of a batch."""
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/completions", "body": body}
    return json.dumps(line).encode() + b"\n"


def raw_connection(url: str) -> socket.socket:
    """Open a connection to a server."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=60)


def is_ready(url: str) -> bool:
    """Say whether a server answers."""
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False
