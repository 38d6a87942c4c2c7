"""Offline batch text completion with a local ONNX model."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.engine.engine import Engine
    from aobatch.errors import JobError, RequestError
    from aobatch.executors.local import LocalBackend, load_engine
    from aobatch.frames import complete, run_table
    from aobatch.job.config import JobConfig
    from aobatch.job.runner import run_job
    from aobatch.runners import RunnerConfig

__all__ = [
    "Engine",
    "EngineConfig",
    "JobConfig",
    "JobError",
    "LocalBackend",
    "RequestError",
    "RunnerConfig",
    "complete",
    "load_engine",
    "run_job",
    "run_table",
]

_HOMES = {
    "Engine": "aobatch.engine.engine",
    "EngineConfig": "aobatch.engine.config",
    "JobConfig": "aobatch.job.config",
    "JobError": "aobatch.errors",
    "LocalBackend": "aobatch.executors.local",
    "RequestError": "aobatch.errors",
    "RunnerConfig": "aobatch.runners",
    "complete": "aobatch.frames",
    "load_engine": "aobatch.executors.local",
    "run_job": "aobatch.job.runner",
    "run_table": "aobatch.frames",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: the command line starts without numpy."""
    if name == "__version__":
        return version("aobatch")
    if name not in _HOMES:
        message = f"module 'aobatch' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    """List the public names, for those who complete them."""
    return sorted([*__all__, "__version__", *(name for name in globals() if name[:2] == "__")])
