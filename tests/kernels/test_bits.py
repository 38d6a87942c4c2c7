"""Bits on other processors: of the operators alone and, where tools allow, of whole jobs.

`make bits-test` has what they need: qemu's user mode (Debian: qemu-user-static), and in $ZIG the
command of zig, out of the package ziglang.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from aobatch.kernels import SOURCES, KernelsError, find_compiler, library
from aobatch.models.store.folder import ModelFolder

try:
    library()
except KernelsError as error:
    pytest.skip(str(error), allow_module_level=True)

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-ffp-contract=fast", "-w", f"-I{SOURCES[0].parent}")
UNITS = [path for path in SOURCES if path.name not in {"nodes.c", "runtime.c"}]
OLDEST = {"x86_64": "-march=haswell", "aarch64": "-march=armv8-a"}[platform.machine()]
JOB = [
    {"prompt": f"line {i} of", "max_tokens": 9, "logprobs": 2, **sampling}
    for i in range(4)
    for sampling in ({"temperature": 0}, {"temperature": 1, "top_p": 0.95, "seed": i})
]


def emulator(machine: str) -> str:
    """Give qemu's command for programs of another processor."""
    for name in (f"qemu-{machine}", f"qemu-{machine}-static"):
        if shutil.which(name):
            return name
    pytest.skip(f"no qemu-{machine}; apt install qemu-user-static, or make bits-test")


def run(*command: str, **environment: str) -> str:
    """Run a command; what it prints."""
    environment = os.environ | environment
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout


def built(target: Path, compiler: tuple[str, ...], *flags: str) -> str:
    """Compile the program and the operators' sources into it."""
    units = [str(path) for path in UNITS if path.suffix == ".c"]
    run(*compiler, *FLAGS, *flags, str(HERE / "bits.c"), *units, "-o", str(target), "-lm")
    return str(target)


def answers(path: Path) -> list[dict[str, object]]:
    """Read what a job wrote, but for the time of the day."""
    lines = map(json.loads, path.read_text().splitlines())
    return [{key: value for key, value in line.items() if key != "created"} for line in lines]


@pytest.fixture(scope="module")
def own_bits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give what the library prints that is used on this processor."""
    program, found = tmp_path_factory.mktemp("own") / "bits", library().path
    rest = (
        str(HERE / "bits.c"),
        str(found),
        f"-Wl,-rpath,{found.parent}",
        "-o",
        str(program),
        "-lm",
    )
    run(*find_compiler(), *FLAGS, *rest)
    return run(str(program))


def test_an_older_processor_computes_the_same_bits(own_bits: str, tmp_path: Path) -> None:
    """Compiled for the oldest that will do, and less optimised (by -O1 nothing would be fused)."""
    program = built(tmp_path / "bits", find_compiler(), "-O2", OLDEST)

    assert run(program) == own_bits
    assert len(set(own_bits.splitlines())) > 20


@pytest.mark.long
def test_tiles_compute_the_same_bits(own_bits: str, tmp_path: Path) -> None:
    """As processors with AMX multiply, whose instructions are computed in C here."""
    tiles = f'-DEMULATED_TILES="{HERE / "tiles.h"}"'

    assert run(built(tmp_path / "bits", find_compiler(), "-O2", OLDEST, tiles)) == own_bits


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="compiles for x86-64")
def test_emulated_haswell_computes_the_same_bits(own_bits: str, tmp_path: Path) -> None:
    """A processor without AVX-512, instruction by instruction."""
    program = built(tmp_path / "bits", find_compiler(), "-O3", OLDEST)

    assert run(emulator("x86_64"), "-cpu", "Haswell", program) == own_bits


@pytest.mark.long
@pytest.mark.parametrize("processor", ["generic", "neoverse_n1", "neoverse_v1"])
def test_emulated_arm_computes_the_same_bits(own_bits: str, tmp_path: Path, processor: str) -> None:
    """Without products of bytes, with them, and with those of signed and unsigned ones."""
    if "ZIG" not in os.environ:
        pytest.skip("no compiler for aarch64; set ZIG to zig's command, or make bits-test")
    qemu = emulator("aarch64")
    compiler = (*shlex.split(os.environ["ZIG"]), "cc", "-target", "aarch64-linux-musl")
    program = built(tmp_path / "bits", compiler, "-O2", f"-mcpu={processor}")

    assert run(qemu, "-cpu", "max", program) == own_bits


@pytest.mark.long
@pytest.mark.skipif(platform.machine() != "x86_64", reason="emulates x86-64")
@pytest.mark.parametrize("is_tiny", [True, False], ids=["tiny", "default"])
def test_whole_jobs_have_the_same_bytes_on_an_emulated_haswell(
    tiny_int8: ModelFolder, tmp_path: Path, is_tiny: bool
) -> None:
    """ONNX Runtime's own nodes, embeddings and wanted rows, compute nothing that differs."""
    qemu, model = emulator("x86_64"), tiny_int8.path if is_tiny else "smollm2-135m-instruct"
    source, compiler = tmp_path / "in.jsonl", tmp_path / "cc"
    source.write_text("".join(json.dumps(line) + "\n" for line in JOB))
    compiler.write_text(f'#!/bin/sh\nexec {shlex.join(find_compiler())} "$@" {OLDEST}\n')
    compiler.chmod(0o755)
    command = (sys.executable, "-m", "aobatch", "run", str(source), "--model", str(model))
    command += ("--kernels", "fused", "--output")
    run(*command, str(tmp_path / "own.jsonl"))
    older = {"CC": str(compiler), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    run(qemu, "-cpu", "Haswell", *command, str(tmp_path / "other.jsonl"), **older)

    own, other = (answers(tmp_path / f"{name}.jsonl") for name in ("own", "other"))
    assert own == other
    assert len(own) == len(JOB)
