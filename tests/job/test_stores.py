"""Laws of stores that fail: one sentence and an exit code that says what to do, whatever store."""

import signal
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from aobatch.errors import AccessError, BusyError, InputMissingError, JobError, OutputError
from aobatch.formats import remote
from aobatch.formats.remote import Remote, parse_location
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job

URIS = {
    "s3": "s3://key:secret@bucket/x.jsonl?endpoint_override={}&scheme=http&region=us-east-1",
    "gs": "gs://anonymous@bucket/x.jsonl?endpoint_override={}&scheme=http",
    "abfs": "abfs://account@{}/container/x.jsonl?enable_tls=false&credential_kind=anonymous",
    "az": "az://account@{}/container/x.jsonl?enable_tls=false&credential_kind=anonymous",
    "hf": "hf://datasets/owner/name/x.jsonl",
}


class Server(ThreadingHTTPServer):
    """Answers everything with one status, or does not answer."""

    status: int | None = 200
    daemon_threads = True


class Handler(BaseHTTPRequestHandler):
    """Reads no more of a request than its head."""

    def do_GET(self) -> None:
        """Answer, if at all."""
        assert isinstance(self.server, Server)
        if self.server.status is None:
            released.wait(30)
            return
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_PUT = do_POST = do_GET  # noqa: N815 - the library's names

    def log_message(self, *_: object) -> None:
        """Say nothing."""


released = threading.Event()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Run a server."""
    with Server(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield found
        released.set()
        found.shutdown()


@pytest.fixture
def place(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give the server's address; libraries ask it, and ask again as little as they can."""
    address = f"127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://{address}")
    monkeypatch.setattr(remote, "RETRY_SECONDS", 1)
    return address


def read_and_write(uri: str, folder: Path) -> tuple[JobError, JobError]:
    """Name a file of a store as the input of a job and as an output; give how both end."""
    source = folder / "in.jsonl"
    source.write_bytes(b'{"prompt":"a"}\n')
    found = []
    location = parse_location(uri)
    assert isinstance(location, Remote)
    jobs = (
        JobConfig((location,), folder / "out.jsonl"),
        JobConfig((source,), folder / "o.jsonl", uploads=((folder / "o.jsonl", location),)),
    )
    for config in jobs:
        with pytest.raises(JobError) as caught:
            run_job(config, object())  # type: ignore[arg-type] - nothing is computed
        found.append(caught.value)
        (sentence,) = str(caught.value).splitlines()
        assert str(location) in sentence
        assert "secret" not in sentence
    return found[0], found[1]


@pytest.mark.parametrize("status", [401, 403, 404])
@pytest.mark.parametrize("scheme", URIS)
def test_a_store_that_refuses_is_told_apart_from_one_without_the_file(
    server: Server, place: str, tmp_path: Path, scheme: str, status: int
) -> None:
    """Who is not known or not allowed ends with 77, who asks for what is not there with 66."""
    server.status = status

    reading, writing = read_and_write(URIS[scheme].format(place), tmp_path)

    assert isinstance(reading, InputMissingError if status == 404 else AccessError)
    assert isinstance(writing, OutputError if status == 404 else AccessError)


SLOW = ("s3", "abfs", "az")
"""Their libraries ask again for six seconds, whatever they are told."""


@pytest.mark.parametrize(
    "scheme", [pytest.param(s, marks=[pytest.mark.long] * (s in SLOW)) for s in URIS]
)
def test_a_store_that_nobody_reaches_is_to_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str, scheme: str
) -> None:
    """A port at which nobody listens ends with 75."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", f"http://{address}")

        for error in read_and_write(URIS[scheme].format(address), tmp_path):
            assert isinstance(error, BusyError)
            assert "again" in str(error)


@pytest.mark.parametrize("scheme", URIS)
def test_a_silent_store_is_left(
    server: Server, place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, scheme: str
) -> None:
    """One that takes a question and never answers ends with 75, and hears signals meanwhile."""
    server.status = None
    location = parse_location(URIS[scheme].format(place))
    config = JobConfig((location,), tmp_path / "out.jsonl")
    main = threading.main_thread().ident
    assert main is not None
    threading.Timer(0.3, signal.pthread_kill, (main, signal.SIGINT)).start()

    with pytest.raises(KeyboardInterrupt):
        run_job(config, object())  # type: ignore[arg-type]
    monkeypatch.setattr(remote, "ANSWER_SECONDS", 0.3)
    with pytest.raises(BusyError, match="no answer within"):
        run_job(config, object())  # type: ignore[arg-type]


def test_a_store_without_an_account_says_how_it_is_named(tmp_path: Path) -> None:
    """Containers alone are not found anywhere."""
    for scheme in ("abfs", "az"):
        reading, writing = read_and_write(f"{scheme}://container/x.jsonl", tmp_path)
        assert isinstance(reading, AccessError)
        assert isinstance(writing, AccessError)
        assert "abfs://CONTAINER@ACCOUNT" in str(reading)
