"""Laws of the command: batches outlive its death, and it stops in order."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from forking import ForkServer
from scripted_models import envelopes, is_ready, raw_connection
from waiting import wait_until

from aobatch.cli.main import aobatch
from aobatch.serve.server import listen

LINES = [{"prompt": f"{number} times", "max_tokens": 24, "seed": 1} for number in range(300)]
MACHINE = ("--threads", "1", "--kernels", "stock")
Served = tuple[str, "subprocess.Popen[bytes]"]


@pytest.fixture
def environment(tiny_home: Path) -> dict[str, str]:
    """Let the default model be a tiny one, and every job begin at the same time."""
    return {**os.environ, "AOBATCH_MODELS": str(tiny_home), "SOURCE_DATE_EPOCH": "1700000000"}


def free_port() -> int:
    """Find a port that nobody uses."""
    with listen("127.0.0.1", 0) as taken:
        return int(taken.getsockname()[1])


@contextmanager
def served(folder: Path, environment: dict[str, str], *options: str) -> Iterator[Served]:
    """Start the command and wait until it answers."""
    port = free_port()
    command = [sys.executable, "-m", "aobatch", "serve", "--port", str(port), *MACHINE]
    with subprocess.Popen(
        [*command, *options], cwd=folder, env=environment, stderr=subprocess.PIPE
    ) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: is_ready(url), process)
            yield url, process
        finally:
            process.kill()


def test_a_killed_server_loses_nothing_of_a_batch(
    tmp_path: Path, environment: dict[str, str], fork_server: ForkServer
) -> None:
    """After SIGKILL in the middle, the next start completes the batch with the bytes of a run."""
    content = envelopes(*LINES)
    with served(tmp_path, environment) as (url, process), httpx.Client(base_url=url) as client:
        form = {"files": {"file": content}, "data": {"purpose": "batch"}}
        file = client.post("/v1/files", **form).json()  # type: ignore[arg-type]
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        name = client.post("/v1/batches", json=body).json()["id"]
        path = f"/v1/batches/{name}"
        wait_until(lambda: client.get(path).json()["request_counts"]["completed"])
        process.kill()
        process.wait()

    with served(tmp_path, environment) as (url, process), httpx.Client(base_url=url) as client:
        wait_until(lambda: client.get(path).json()["status"] == "completed")
        output = client.get(f"/v1/files/{client.get(path).json()['output_file_id']}/content")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0

    (tmp_path / "in.jsonl").write_bytes(content)
    run = [sys.executable, "-m", "aobatch", "run", "in.jsonl", *MACHINE]
    subprocess.run(run, cwd=tmp_path, env=environment, check=True, capture_output=True)
    assert output.content == (tmp_path / "in.out.jsonl").read_bytes()


def test_a_server_stops_when_its_requests_have_ended(
    tmp_path: Path, environment: dict[str, str], fork_server: ForkServer
) -> None:
    """Whoever is under way gets all; whoever comes later is told to wait, or finds nobody."""
    with served(tmp_path, environment) as (url, process):
        body = {"prompt": "a", "max_tokens": 100, "ignore_eos": True, "stream": True}
        late: list[object] = []
        with httpx.stream("POST", f"{url}/v1/completions", json=body) as answer:
            pieces = answer.iter_lines()
            next(pieces)
            process.send_signal(signal.SIGTERM)
            for _ in range(1000):
                found = later(url)
                if found != 200:
                    late.append(found)
                    break
            rest = list(pieces)
        assert rest[-2:] == ["data: [DONE]", ""]
        assert late in ([503], [None])
        assert process.wait() == 0


def test_a_second_signal_ends_a_server_at_once(
    tmp_path: Path, environment: dict[str, str], fork_server: ForkServer
) -> None:
    """The first one waits for a request that never ends, the second one for nothing."""
    head = b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n"
    form = b"content-type: multipart/form-data; boundary=b\r\n\r\n--b"
    with served(tmp_path, environment) as (url, process), raw_connection(url) as connection:
        connection.sendall(head + form)
        wait_until(lambda: "http_requests_open 1" in httpx.get(f"{url}/metrics").text)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: httpx.get(f"{url}/health").json() == {"status": "stopping"})
        process.send_signal(signal.SIGTERM)

        assert process.wait() == -signal.SIGTERM


def later(url: str) -> int | None:
    """Ask for a completion; give the status, or None if nobody is there."""
    try:
        body = {"prompt": "a", "max_tokens": 1}
        return httpx.post(f"{url}/v1/completions", json=body).status_code
    except httpx.TransportError:
        return None


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--host", "0.0.0.0"], 2, "--no-auth"),
        (["--host", "no.such.host.invalid"], 2, "--no-auth"),
        (["--host", "no.such.host.invalid", "--no-auth"], 2, "is no address of this machine"),
        (["--api-keys", "none"], 2, "cannot be read"),
        (["--data", "/dev/null/x"], 73, "cannot be created"),
    ],
)
def test_a_start_that_cannot_be_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: int,
    message: str,
) -> None:
    """One sentence and its exit code, before a model is looked for."""
    from click.testing import CliRunner

    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(aobatch, ["serve", "--port", "0", *options])

    assert (result.exit_code, message in result.output) == (code, True), result.output


def test_an_address_in_use_and_a_folder_in_use_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two servers on one port or one folder do not start; exit code 75."""
    from click.testing import CliRunner

    from aobatch.serve.server import opened_data

    monkeypatch.chdir(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = CliRunner().invoke(aobatch, ["serve", "--port", port])
        assert (result.exit_code, "cannot be served" in result.output) == (75, True)
    with opened_data(tmp_path / "aobatch-data"):
        result = CliRunner().invoke(aobatch, ["serve", "--port", "0"])
        assert (result.exit_code, "is working on" in result.output) == (75, True)
