"""Workers of Ray, as the options of a command ask for them."""

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import click

from aobatch.cli.command import is_given
from aobatch.cli.console import say

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.executors import Backend
    from aobatch.executors.local import LocalBackend


def ray_backend(
    local: "LocalBackend", config: "EngineConfig", num_workers: int, *, keeps_cache_bytes: bool
) -> "Backend":
    """Give a backend whose workers compute; UsageError without Ray, once a model is opened."""
    from aobatch.executors.ray.backend import RayBackend, RayOptions

    threads = click.get_current_context().params["threads"] if is_given("threads") else None

    def warn(message: str) -> None:
        say(message, level="warning", event="worker")

    options = RayOptions(num_workers, threads, keeps_cache_bytes, warn)
    return RayBackend(local, config, options)


def closing_backend(backend: "Backend") -> "AbstractContextManager[Backend]":
    """Give a block at whose end a backend lets go of what it holds, if it holds anything."""
    return backend if isinstance(backend, AbstractContextManager) else nullcontext(backend)
