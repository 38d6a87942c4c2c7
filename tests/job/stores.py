"""Stores for tests: a server that speaks S3, on this machine alone."""

import socket
import threading
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

BUCKET = "bucket"


@dataclass
class Store:
    """A server with one bucket; it may be stopped, and started again with what it holds."""

    port: int = field(default=0, init=False)
    requests: list[str] = field(default_factory=list)
    """Method and path of each request."""
    _server: Any = None
    _holder: socket.socket = field(default_factory=socket.socket)
    """Keeps the port from others while nobody listens there."""

    def __post_init__(self) -> None:
        """Take a port."""
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind(("127.0.0.1", 0))
        self.port = self._holder.getsockname()[1]

    def start(self) -> None:
        """Listen."""
        application = DomainDispatcherApplication(create_backend_app)

        def count(environment: dict[str, Any], respond: object) -> object:
            self.requests.append(f"{environment['REQUEST_METHOD']} {environment['PATH_INFO']}")
            return application(environment, respond)

        self._server = make_server("127.0.0.1", self.port, count, threaded=True)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Refuse connections from now on."""
        self._server.shutdown()
        self._server.server_close()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._holder.close()

    @cached_property
    def client(self) -> Any:  # noqa: ANN401 - made by boto3
        """Give a client that is not the one under test."""
        url = f"http://127.0.0.1:{self.port}"
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"}
        return boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)

    def uri(self, key: str) -> str:
        """Name an object."""
        query = f"endpoint_override=127.0.0.1:{self.port}&scheme=http&region=us-east-1"
        return f"s3://test:test@{BUCKET}/{key}?{query}"

    def put(self, key: str, content: bytes) -> str:
        """Keep an object; give its URI."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body=content)
        return self.uri(key)

    def get(self, key: str) -> bytes:
        """Give the content of an object."""
        content: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return content

    def names(self) -> set[str]:
        """Name all objects."""
        listing = self.client.list_objects_v2(Bucket=BUCKET)
        return {entry["Key"] for entry in listing.get("Contents", [])}
