"""Offline batch text completion with a local ONNX model."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aobatch.engine.config import EngineConfig
    from aobatch.engine.engine import Engine
    from aobatch.errors import JobError, RequestError
    from aobatch.executors.local import LocalBackend, load_engine
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
    "load_engine",
    "run_job",
]

_HOMES = {
    "Engine": "aobatch.engine.engine",
    "EngineConfig": "aobatch.engine.config",
    "JobConfig": "aobatch.job.config",
    "JobError": "aobatch.errors",
    "LocalBackend": "aobatch.executors.local",
    "RequestError": "aobatch.errors",
    "RunnerConfig": "aobatch.runners",
    "load_engine": "aobatch.executors.local",
    "run_job": "aobatch.job.runner",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first used: the command line starts without numpy."""
    if name not in _HOMES:
        message = f"module 'aobatch' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
