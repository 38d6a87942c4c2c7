"""Laws of a server under load: documented answers alone, no place is lost, memory is bounded."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

import httpx
import pytest
from forking import ForkServer
from scripted_models import envelope
from test_process import environment, served  # noqa: F401 - a fixture
from waiting import wait_until

pytestmark = pytest.mark.long
SECONDS = 60
NUM_CLIENTS, NUM_SLOW, NUM_LEAVING, NUM_HALF = 140, 20, 20, 20
BODY = {"prompt": "Once upon a time", "max_tokens": 24, "temperature": 1}
NUM_LINES = 1_000_000


def resident_bytes(process: int) -> int:
    """Read what a process has in memory."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


def metrics(url: str) -> dict[str, float]:
    """Read the metrics, without labels."""
    lines = [line.split() for line in httpx.get(f"{url}/metrics", timeout=60).text.splitlines()]
    return {name.split("{")[0]: float(value) for name, value in lines}


async def ask(client: httpx.AsyncClient, number: int, seen: Counter[int]) -> None:
    """Ask for a completion, whole or as a stream; note the status."""
    body = {**BODY, "prompt": f"{number} times", "stream": number % 2 == 0}
    async with client.stream("POST", "/v1/completions", json=body) as answer:
        seen[answer.status_code] += 1
        async for _ in answer.aiter_bytes():
            pass


async def connect(url: str, body: dict[str, object], *, is_whole: bool) -> asyncio.StreamWriter:
    """Send a request, or half of it, over a connection of its own."""
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps(body).encode()
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(content)}\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection(host, int(port), limit=2**12)
    writer.write(head + (content if is_whole else content[:5]))
    await writer.drain()
    writer.reader = reader  # type: ignore[attr-defined]
    return writer


async def load(url: str, seen: Counter[int]) -> None:
    """Let many clients of four kinds ask for a while."""
    end, numbers = time.monotonic() + SECONDS, count()
    long_stream = {**BODY, "max_tokens": 100, "n": 4, "stream": True, "ignore_eos": True}

    async def usual(client: httpx.AsyncClient) -> None:
        """Ask again and again."""
        while time.monotonic() < end:
            await ask(client, next(numbers), seen)

    async def slow() -> None:
        """Read a few bytes now and then."""
        writer = await connect(url, long_stream, is_whole=True)
        while time.monotonic() < end and await writer.reader.read(64):  # type: ignore[attr-defined]
            await asyncio.sleep(0.5)
        writer.close()

    async def leaving() -> None:
        """Go away in the middle, and come again."""
        while time.monotonic() < end:
            writer = await connect(url, long_stream, is_whole=True)
            await asyncio.sleep(0.5)
            writer.close()

    async def half() -> None:
        """Send half a body."""
        writer = await connect(url, BODY, is_whole=False)
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        with suppress(ConnectionError):
            writer.close()

    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await asyncio.gather(
            *(usual(client) for _ in range(NUM_CLIENTS)),
            *(slow() for _ in range(NUM_SLOW)),
            *(leaving() for _ in range(NUM_LEAVING)),
            *(half() for _ in range(NUM_HALF)),
        )


def test_two_hundred_connections_lose_no_place(
    tmp_path: Path,
    environment: dict[str, str],  # noqa: F811
    fork_server: ForkServer,
    tell: Callable[[str], None],
) -> None:
    """After a minute of all kinds of clients everything is free, and little memory is taken."""
    seen: Counter[int] = Counter()
    with served(tmp_path, environment) as (url, process):
        asyncio.run(warm_up(url))
        before = resident_bytes(process.pid)
        asyncio.run(load(url, seen))
        gauges = ("sequences_running", "sequences_waiting", "completions_open")
        for gauge in gauges:
            wait_until(lambda gauge=gauge: metrics(url)[f"aobatch_{gauge}"] == 0)
        grown = resident_bytes(process.pid) - before
    tell(f"load: {dict(seen)}, memory grew by {grown / 1e6:.0f} MB")

    assert set(seen) <= {200, 429}
    assert seen[200] > 100
    assert grown <= 100e6


async def warm_up(url: str) -> None:
    """Let as many sequences run as there are slots."""
    async with httpx.AsyncClient(base_url=url, timeout=600) as client:
        await asyncio.gather(*(ask(client, n, Counter()) for n in range(128)))


def form() -> Iterator[bytes]:
    """Write a form of a million lines, a piece at a time."""
    yield b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    yield b'--b\r\ncontent-disposition: form-data; name="file"; filename="m.jsonl"\r\n\r\n'
    for first in range(0, NUM_LINES, 1000):
        numbers = range(first, first + 1000)
        yield b"".join(
            envelope(f"r{n}", {"prompt": f"{n} times", "max_tokens": 4}) for n in numbers
        )
    yield b"\r\n--b--\r\n"


def test_a_million_lines_take_bounded_memory(
    tmp_path: Path,
    environment: dict[str, str],  # noqa: F811
    fork_server: ForkServer,
    tell: Callable[[str], None],
) -> None:
    """Uploaded, validated, begun and cancelled, they take 250 MB at most."""
    kind = {"content-type": "multipart/form-data; boundary=b"}
    with (
        served(tmp_path, environment) as (url, process),
        httpx.Client(base_url=url, timeout=600) as client,
    ):
        asyncio.run(warm_up(url))
        before = resident_bytes(process.pid)
        most = [before]

        def status() -> str:
            most.append(resident_bytes(process.pid))
            return str(client.get(path).json()["status"])

        file = client.post("/v1/files", content=form(), headers=kind).json()
        body = {
            "input_file_id": file["id"],
            "endpoint": "/v1/completions",
            "completion_window": "24h",
        }
        path = f"/v1/batches/{client.post('/v1/batches', json=body).json()['id']}"
        patiently(lambda: status() == "in_progress")
        assert client.get(path).json()["request_counts"]["total"] == NUM_LINES
        patiently(lambda: status() and client.get(path).json()["request_counts"]["completed"])
        client.post(f"{path}/cancel")
        patiently(lambda: status() == "cancelled")
        found = client.get(path).json()["request_counts"]
    tell(f"a million lines: {found}, memory grew by {(max(most) - before) / 1e6:.0f} MB")

    assert found["total"] == found["completed"] + found["failed"] == NUM_LINES
    assert max(most) - before <= 250e6


def patiently(has_come: Callable[[], object]) -> None:
    """Wait for what takes minutes."""
    for _ in range(20):
        with suppress(AssertionError):
            wait_until(has_come)
            return
    pytest.fail("hangs")
