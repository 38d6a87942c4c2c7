"""Operators of our own for ONNX Runtime: their C sources, built when they are first needed.

They are compiled for this processor by whatever C compiler is there, within some seconds, into the
user's cache folder, under a name that follows from sources, compiler, flags and processor. Their
results are the same bits on every processor, so only the sources shape results.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, TypeAlias

from aobatch.errors import AobatchError
from aobatch.files import cache_folder, waiting_lock

Kernels: TypeAlias = Literal["fused", "stock"]
"""Which operators compute a graph: ours, or ONNX Runtime's alone."""
CacheDtype: TypeAlias = Literal["int8", "bf16", "fp32"]
"""How keys and values are kept; int8 with a scale a token and head."""
BLOCK = 16
"""Tokens whose keys and values lie together."""

SOURCES = sorted(Path(__file__).parent.glob("*.[ch]"))
_FLAGS = ("-std=gnu11", "-O3", "-ffp-contract=fast", "-fvisibility=hidden", "-fPIC", "-pthread")
_TUNED = {"x86_64": "-march=native", "aarch64": "-mcpu=native"}
_NEEDED = {"x86_64": {"avx2", "fma"}, "aarch64": {"asimd"}}
"""What a processor must have: fused multiply-add, in which all bits are the same everywhere."""
_BUILD_SECONDS = 300


class KernelsError(AobatchError):
    """The operators cannot be had on this machine; the message says why, and what would help."""


@dataclass(frozen=True, slots=True)
class Library:
    """The compiled operators."""

    path: Path
    compiler: str
    """The first line of what it says of itself."""


def block_bytes(dtype: CacheDtype, head_dim: int) -> int:
    """Count the bytes of 16 tokens of one head: keys, values, and scales where they are bytes."""
    numbers = 2 * BLOCK * head_dim
    return {"int8": numbers + 2 * BLOCK * 4, "bf16": 2 * numbers, "fp32": 4 * numbers}[dtype]


def sources_digest() -> str:
    """Name the sources by their content: what shapes results."""
    texts = (f"{path.name}\n{path.read_text(encoding='utf-8')}" for path in SOURCES)
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


def find_compiler() -> tuple[str, ...]:
    """Give the command of a C compiler: $CC, cc, gcc, clang, or that of the package ziglang."""
    named = shlex.split(os.environ.get("CC", ""))
    for command in (named, ["cc"], ["gcc"], ["clang"]):
        if command and shutil.which(command[0]):
            return tuple(command)
    if find_spec("ziglang") is not None:
        return (sys.executable, "-m", "ziglang", "cc")
    message = (
        "no C compiler was found; install one (Debian: apt install gcc), or the extra [native]: "
        "pip install ziglang"
    )
    raise KernelsError(message)


@cache
def library() -> Library:
    """Give the operators for this machine, built if they are not here yet.

    Raises KernelsError if the processor lacks what they need, there is no compiler, the build
    fails, or nothing can be kept.
    """
    _check_processor()
    compiler = find_compiler()
    described = _output((*compiler, "--version")).partition("\n")[0]
    flags = (*_FLAGS, _TUNED[platform.machine()])
    parts = (sources_digest(), described, *flags, *sorted(_processor_flags()))
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    path = _folder() / f"{name}.so"
    if not path.is_file():
        with waiting_lock(path.with_suffix(".lock")):
            if not path.is_file():
                _build(compiler, flags, path)
    return Library(path, described)


def _check_processor() -> None:
    machine = platform.machine()
    missing = _NEEDED.get(machine, {f"support for {machine}"}) - _processor_flags()
    if sys.platform != "linux" or missing:
        lacking = ", ".join(sorted(missing)) or f"support for {sys.platform}"
        message = f"this processor has no {lacking}, which the fused operators need"
        raise KernelsError(message)


@cache
def _processor_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line.partition(":") for line in text.splitlines())
    found = [value for name, _, value in lines if name.strip() in {"flags", "Features"}]
    return frozenset(found[0].split()) if found else frozenset()


def _folder() -> Path:
    """Give the folder of libraries, which nobody else may write: what lies there is executed."""
    try:
        folder = cache_folder() / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError) as error:
        message = f"the fused operators cannot be kept: {error}; set XDG_CACHE_HOME"
        raise KernelsError(message) from error
    if folder.is_symlink() or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        message = f"{folder} belongs to, or can be written by, others; remove it"
        raise KernelsError(message)
    return folder


def _build(compiler: tuple[str, ...], flags: tuple[str, ...], target: Path) -> None:
    """Compile units side by side and link them into a file, which then takes its name at once."""
    units = [path for path in SOURCES if path.suffix == ".c"]
    # Those of attention take longest, by far: begun last, they would be waited for alone.
    units.sort(key=lambda path: not path.name.startswith("attention_"))
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".build-") as work:
        objects = [str(Path(work) / f"{path.stem}.o") for path in units]
        commands = [
            (*compiler, *flags, "-c", str(unit), "-o", made)
            for unit, made in zip(units, objects, strict=True)
        ]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            # In order: of units that fail the first one speaks, and those not begun are left out.
            for _ in pool.map(_output, commands):
                pass
        built = Path(work) / target.name
        _output((*compiler, *flags, "-shared", *objects, "-o", str(built), "-lm"))
        built.chmod(0o700)
        built.replace(target)


def _output(command: tuple[str, ...]) -> str:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=_BUILD_SECONDS,
            check=False,
            stdin=subprocess.DEVNULL,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        message = f"the C compiler {command[0]} cannot be run: {error}"
        raise KernelsError(message) from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if "error" in line] or [
            "no reason given"
        ]
        message = f"the C compiler {command[0]} failed: {lines[0].strip()[:300]}"
        raise KernelsError(message)
    return done.stdout
