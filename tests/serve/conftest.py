"""Servers for tests: an application over a scripted model, asked here or over a real connection."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from scripted_models import Rig, Serve, is_ready, scripted_models
from starlette.testclient import TestClient
from waiting import wait_until

from aobatch.serve.app import build_app
from aobatch.serve.server import ServeConfig, Server, listen, make_gateway, opened_data


@pytest.fixture(autouse=True)
def _fixed_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give every job the same start, so that outputs can be compared byte by byte."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")


@contextmanager
def opened(folder: Path, **options: object) -> Iterator[Rig]:
    """Open an application whose model is there, and close it."""
    models = scripted_models(options.pop("script", None), options.pop("engine", None))
    state = options.pop("state", "ready")
    config = ServeConfig(data=folder, **options)  # type: ignore[arg-type]
    with opened_data(folder):
        gateway = make_gateway(config, models)
        models.acquire(models.own, waits=True)
        gateway.state = str(state)
        gateway.batches.start()
        client = TestClient(build_app(gateway), base_url="http://127.0.0.1")
        yield Rig(client, gateway)
        gateway.batches.stop(10)
        models.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Give a function that opens applications, in the data folder of the test or another."""
    with ExitStack() as stack:

        def open_one(folder: Path | None = None, **options: object) -> Rig:
            return stack.enter_context(opened(folder or tmp_path / "data", **options))

        yield open_one


@pytest.fixture
def rig(serve: Serve) -> Rig:
    """Give an application with the usual options."""
    return serve()


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the address of a server with a key, `sk-of-the-tests-0001`, in a thread here."""
    folder = tmp_path_factory.mktemp("served")
    keys = folder / "keys"
    keys.write_text("sk-of-the-tests-0001\n")
    keys.chmod(0o600)
    config = ServeConfig(data=folder / "data", api_keys=keys)
    with listen("127.0.0.1", 0) as taken, opened_data(config.data):
        models = scripted_models()
        server = Server(make_gateway(config, models), grace=1)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        wait_until(lambda: is_ready(url))
        yield url
        server.should_exit = True
        thread.join()
        models.close()
