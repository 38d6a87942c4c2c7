"""The Ray that a job uses: that of RAY_ADDRESS, or one of its own on this machine."""

import logging
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import ModuleType

from aobatch.errors import BusyError, UsageError

ADDRESS = "RAY_ADDRESS"
OBJECT_STORE_BYTES = 256 << 20
"""Requests and results pass through in small pieces."""

_PRIVATE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Whatever its name says: it lets Ray listen on the loopback interface alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_DEDUP_LOGS": "0",
}


@contextmanager
def connected(num_cpus: int) -> Iterator[ModuleType]:
    """Give Ray, connected; a local one has so many CPUs and ends with the block.

    UsageError if Ray is not installed, BusyError if no cluster answers at RAY_ADDRESS.
    """
    address = os.environ.get(ADDRESS, "")
    if address.startswith("ray://"):
        message = f"{ADDRESS}={address} is a Ray client; run on a node of the cluster instead"
        raise UsageError(message)
    with ExitStack() as stack:
        if address in {"", "local"}:
            folder = stack.enter_context(
                # Not below TMPDIR: paths of sockets have 107 bytes at most.
                tempfile.TemporaryDirectory(
                    prefix="aobatch-ray-", dir="/tmp", ignore_cleanup_errors=True
                )
            )
            token = {"RAY_AUTH_TOKEN": secrets.token_hex(32)}
            stack.enter_context(_environment(_PRIVATE | token))
        ray = _imported()
        if ray.is_initialized():  # whoever calls this package has its own
            yield ray
            return
        with _own_signals():
            if address in {"", "local"}:
                _start(ray, num_cpus, folder)
            else:
                _join(ray, address)
        stack.callback(ray.shutdown)
        yield ray


def _imported() -> ModuleType:
    try:
        with _own_signals():
            import ray
    except ImportError as error:
        message = "--executor ray needs Ray; install it with: pip install 'aobatch[ray]'"
        raise UsageError(message) from error
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    return ray


def _start(ray: ModuleType, num_cpus: int, folder: str) -> None:
    ray.init(
        address="local",
        num_cpus=num_cpus,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=folder,
    )


def _join(ray: ModuleType, address: str) -> None:
    try:
        ray.init(address=address, log_to_driver=False, configure_logging=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        message = f"no Ray cluster answers at {ADDRESS}={address}: {error}; run again when it does"
        raise BusyError(message) from error


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Set variables while the block runs; those that are set already stay."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


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
