"""The process of a server: its address and data folder, how it starts and how it stops."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import uvicorn

from aobatch.errors import BusyError, JobError, UsageError
from aobatch.files import hold_lock, storage_errors
from aobatch.serve.app import Gateway, build_app
from aobatch.serve.batches import Batches
from aobatch.serve.completions import Desk
from aobatch.serve.engines import Models
from aobatch.serve.files import Files
from aobatch.serve.guard import Keys, Limits, is_loopback, read_keys

STOPPING = (signal.SIGINT, signal.SIGTERM)
IDLE_SECONDS = 75
"""A connection without a request is closed after that; those of reverse proxies live for 60."""
DEAD_MILLISECONDS = 60_000
"""The kernel ends a connection whose other end takes nothing for so long."""
SEND_BYTES = 2**17
"""What the kernel keeps for a client that reads slowly; it would keep megabytes by itself."""
DRAIN_SECONDS = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """What a server is to be."""

    host: str = "127.0.0.1"
    port: int = 8000
    data: Path = Path("aobatch-data")
    api_keys: Path | None = None
    no_auth: bool = False
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    max_open: int = 384
    """Requests that are computed or wait."""
    max_file_bytes: int = 2**30
    grace: float = 10.0
    """Seconds that requests under way have when the server is to stop."""

    def keys(self) -> Keys:
        """Read the keys; UsageError if the address asks for some and there are none."""
        if self.api_keys is not None:
            return read_keys(self.api_keys)
        if not self.no_auth and not is_loopback(self.host):
            message = (
                f"--host {self.host} lets others in; give the keys that they need with --api-keys "
                "FILE, or say --no-auth"
            )
            raise UsageError(message)
        return Keys()


class Server(uvicorn.Server):
    """A server of uvicorn's that loads its model, drains, and goes on with batches."""

    def __init__(self, gateway: Gateway, grace: float) -> None:
        config = uvicorn.Config(
            build_app(gateway),
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=IDLE_SECONDS,
            timeout_graceful_shutdown=1,
        )
        super().__init__(config)
        self.failure: JobError | None = None
        """Why the server has ended by itself."""
        self._gateway = gateway
        self._grace = grace
        self._drain: asyncio.Task[None] | None = None
        gateway.desk.models.on_fatal = self._fail

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen at once, and open the model meanwhile."""
        await super().startup(sockets)
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._load, name="loading", daemon=True).start()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Drain at the first signal, end at once by the second."""
        is_main = threading.current_thread() is threading.main_thread()
        numbers = STOPPING if is_main else ()
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _load(self) -> None:
        models = self._gateway.desk.models
        try:
            models.acquire(models.own, waits=True)  # for as long as the server lives
        except JobError as error:
            self._fail(error)
            return
        if self._gateway.state == "loading":
            self._gateway.state = "ready"
            self._gateway.batches.start()

    def _fail(self, error: JobError) -> None:
        self.failure, self.should_exit = error, True

    def _stop(self, number: int, _: FrameType | None) -> None:
        if self._gateway.state == "stopping" or not self.started:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self._gateway.state = "stopping"
        self._loop.call_soon_threadsafe(self._begin_to_stop)

    def _begin_to_stop(self) -> None:
        self._drain = asyncio.ensure_future(self._stop_in_order())

    async def _stop_in_order(self) -> None:
        stopping = asyncio.to_thread(self._gateway.batches.stop, self._grace)
        try:
            async with asyncio.timeout(self._grace):
                while self._gateway.num_open:
                    await asyncio.sleep(DRAIN_SECONDS)
        except TimeoutError:
            pass
        await stopping
        self.should_exit = True


@contextmanager
def opened_data(folder: Path) -> Iterator[None]:
    """Own the data folder while the block runs; what is half uploaded lies in it as well."""
    temporary = folder / "tmp"
    with storage_errors(folder):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with hold_lock(folder / "lock"):
        with storage_errors(folder):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(mode=0o700)
        before, tempfile.tempdir = tempfile.tempdir, str(temporary)
        try:
            yield
        finally:
            tempfile.tempdir = before


def listen(host: str, port: int) -> socket.socket:
    """Take an address; UsageError if there is none of that name, BusyError if it is in use."""
    kind = socket.SOCK_STREAM
    try:
        family, _, protocol, _, address = socket.getaddrinfo(host, port, type=kind)[0]
    except socket.gaierror as error:
        message = f"--host {host} is no address of this machine: {error.strerror}"
        raise UsageError(message) from error
    taken = socket.socket(family, kind, protocol)
    try:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, DEAD_MILLISECONDS)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES)
        taken.bind(address)
    except OSError as error:
        taken.close()
        message = f"http://{host}:{port} cannot be served: {error.strerror}; give another --port"
        raise BusyError(message) from error
    return taken


def make_gateway(config: ServeConfig, models: Models) -> Gateway:
    """Build what a server consists of, in its data folder."""
    files = Files(config.data / "files")
    limits = Limits(config.requests_per_minute, config.tokens_per_minute)
    keys = config.keys()
    return Gateway(
        desk=Desk(models, limits, config.max_open),
        files=files,
        batches=Batches(config.data / "batches", files, models),
        keys=keys,
        max_file_bytes=config.max_file_bytes,
        checks_host=not keys and is_loopback(config.host),
    )
