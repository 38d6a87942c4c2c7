"""Laws of a Ray that is not there, or does not start; none starts one."""

import socket
from types import SimpleNamespace

import pytest

from aobatch.errors import BusyError
from aobatch.executors.ray import cluster


def never(**_: object) -> None:
    """Take the place of a call of Ray that would not come back for minutes."""
    pytest.fail("Ray was asked")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_an_address_at_which_nothing_listens_is_told_at_once(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message names the address and the way out, before Ray begins to wait for it."""
    taken = socket.socket()  # by somebody who does not listen
    taken.bind(("127.0.0.1", 0))
    port = taken.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"{host}:{port}")
    module = SimpleNamespace(init=never, is_initialized=lambda: False)
    monkeypatch.setattr(cluster, "_imported", lambda: module)

    with (
        taken,
        pytest.raises(BusyError, match=rf"no Ray cluster answers at RAY_ADDRESS={host}:{port} "),
        cluster.connected(1),
    ):
        pass


def test_whatever_ray_raises_as_it_starts_is_no_defect(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine too busy to start it ends the run with one sentence."""

    def slow(**_: object) -> None:
        message = "The current node timed out during startup.\nThis could happen"
        raise Exception(message)  # noqa: TRY002 - as Ray does

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    module = SimpleNamespace(init=slow, is_initialized=lambda: False)
    monkeypatch.setattr(cluster, "_imported", lambda: module)

    with pytest.raises(BusyError, match=r"timed out during startup\.; run again$"):
        cluster.connected(1).__enter__()
