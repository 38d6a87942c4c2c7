"""Which operators compute a model, ours or ONNX Runtime's, and how its cache is kept then."""

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from aobatch.errors import ModelError
from aobatch.kernels import CacheDtype, Kernels, KernelsError, Library, library
from aobatch.models.store.folder import ModelFolder
from aobatch.runners import RunnerConfig

_TRIAL = "aobatch.runners.operators"
_TRIAL_SECONDS = 120


@dataclass(frozen=True, slots=True)
class KernelChoice:
    """How a model is computed; shapes results."""

    kernels: Kernels
    cache_dtype: CacheDtype
    lack: str = ""
    """Why this machine computes it with ONNX Runtime's operators although it has a fused graph."""


def choose_kernels(folder: ModelFolder, config: RunnerConfig) -> KernelChoice:
    """Choose fused operators where they can be had; ModelError if what is asked for cannot be."""
    reason = folder.manifest.fused.reason
    lack = "" if reason or config.kernels == "stock" else missing_operators()
    if config.kernels != "stock" and not reason and not lack:
        return KernelChoice("fused", config.kv_cache_dtype or "int8")
    name = folder.manifest.name
    if config.kernels == "fused":
        message = f"{name} cannot run with fused operators: {reason or lack}; use --kernels stock"
        raise ModelError(message)
    if config.kv_cache_dtype not in {None, "fp32"}:
        why = reason or lack or "--kernels stock excludes them"
        message = (
            f"{name} cannot keep keys and values as {config.kv_cache_dtype}, which takes fused "
            f"operators: {why}; use --kv-cache-dtype fp32"
        )
        raise ModelError(message)
    return KernelChoice("stock", "fp32", lack)


@cache
def missing_operators() -> str:
    """Say why the operators cannot be had on this machine; empty if they can."""
    try:
        operators()
    except KernelsError as error:
        return str(error)
    return ""


def operators() -> Library:
    """Give the operators, tried with this ONNX Runtime; KernelsError if they cannot be used.

    A runtime whose interface is another one than they were written for might end the process, so
    that a child tries each library with each version of the runtime once.
    """
    found, runtime = library(), version("onnxruntime")
    mark = found.path.with_suffix(f".onnxruntime-{runtime}")
    if mark.exists():
        return found
    command = (sys.executable, "-m", _TRIAL)
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=_TRIAL_SECONDS, check=False, text=True
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"the fused operators could not be tried: {error}"
        raise KernelsError(message) from error
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        message = f"the fused operators fail with onnxruntime {runtime}: {said[-1][:300]}"
        raise KernelsError(message)
    mark.touch(mode=0o600)
    return found
