"""The Ray that a job uses: that of RAY_ADDRESS, or one of its own on this machine."""

import importlib
import logging
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType

from aobatch.errors import BusyError, UsageError
from aobatch.executors.ray.reaper import session_folder

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE_BYTES = 256 << 20
"""Requests and results pass through in small pieces."""
KNOCK_SECONDS = 10.0

_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1"}
_PRIVATE = {
    # Whatever its name says: it lets Ray listen on the loopback interface alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    # Once a process: Ray remembers the first one.
    "RAY_AUTH_TOKEN": secrets.token_hex(32),
}
"""What keeps others out; Ray reads it when it is imported."""


@contextmanager
def connected(num_cpus: int) -> Iterator[ModuleType]:
    """Give Ray, connected; a local one has so many CPUs and ends with the block.

    UsageError if Ray is not installed, BusyError if no cluster answers at RAY_ADDRESS.
    """
    address = os.environ.get(ADDRESS, "")
    if address.startswith("ray://"):
        message = f"{ADDRESS}={address} is a Ray client; run on a node of the cluster instead"
        raise UsageError(message)
    is_local = address in {"", "local"}
    with ExitStack() as stack:
        if is_local:
            folder = stack.enter_context(session_folder())
            stack.enter_context(_environment())
        ray = _imported()
        if ray.is_initialized():  # whoever calls this package has its own
            yield ray
            return
        with _own_signals():
            if is_local:
                _start(ray, num_cpus, folder)
            else:
                _join(ray, address)
        stack.callback(ray.shutdown)
        yield ray


def _imported() -> ModuleType:
    """Import Ray, and keep what it has to say out of standard output and error."""
    try:
        with _own_signals():
            import ray
    except ImportError as error:
        message = (
            "--executor ray needs Ray, the extra [ray]; install it: pip install 'ray>=2.52,<3'"
        )
        raise UsageError(message) from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    worker = importlib.import_module("ray._private.worker")
    # No setting covers the errors of nodes: they are printed whatever log_to_driver is.
    vars(worker)["print_to_stdstream"] = lambda *_args, **_kwargs: None
    return ray


@cache
def _is_private() -> bool:
    """Say whether Ray can be told who may reach it: not if others have imported it first."""
    return "ray" not in sys.modules


def _start(ray: ModuleType, num_cpus: int, folder: Path) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=num_cpus,
            object_store_memory=OBJECT_STORE_BYTES,
            include_dashboard=False,
            log_to_driver=False,
            configure_logging=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
        )
    except Exception as error:
        message = f"Ray does not start on this machine: {first_line(error)}; run again"
        raise BusyError(message) from error


def _join(ray: ModuleType, address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        if host and port.isdecimal():  # where nothing listens, Ray itself would wait for minutes
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        message = (
            f"no Ray cluster answers at {ADDRESS}={address} ({first_line(error)}); start it, or "
            f"unset {ADDRESS} for one on this machine"
        )
        raise BusyError(message) from error


@contextmanager
def _environment() -> Iterator[None]:
    """Set what Ray reads while the block runs; what keeps it quiet, if nobody has set that."""
    values = {name: os.environ.get(name, value) for name, value in _QUIET.items()}
    values |= _PRIVATE if _is_private() else {}
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep this program's own handling of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)


def first_line(error: BaseException) -> str:
    """Say what an error of Ray is, which may explain itself at length."""
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0]}"
