"""Laws of the operators' build: once, into a folder of one's own, or one sentence why not."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from aobatch import kernels
from aobatch.kernels import KernelsError, find_compiler, library
from aobatch.runners import choice

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo "made up 1.0"; exit; fi
echo called >> {log}
while [ "$1" != -o ]; do shift; done
{action}
"""


@pytest.fixture
def made_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[str], Path]:
    """Set up a compiler that does what it is told, and an empty cache; give its log."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(kernels, "_check_processor", lambda: None)
    monkeypatch.setattr(kernels, "_TUNED", dict.fromkeys((*kernels._TUNED, "riscv64"), "-O3"))

    def compiler(action: str) -> Path:
        script, log = tmp_path / "compiler", tmp_path / "log"
        script.write_text(COMPILER.format(log=log, action=action))
        script.chmod(0o700)
        monkeypatch.setenv("CC", str(script))
        return log

    return compiler


def test_a_library_is_built_once_for_its_owner_alone(
    made_up: Callable[[str], Path], tmp_path: Path
) -> None:
    """What lies there is executed, so nobody else may write it."""
    log = made_up('echo built > "$2"')
    found = library.__wrapped__()
    again = library.__wrapped__()

    assert found == again
    assert (found.compiler, log.read_text()) == ("made up 1.0", "called\n")
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (found.path, found.path.parent)]
    assert modes == [0o700, 0o700]
    assert {path.suffix for path in found.path.parent.iterdir()} == {".so", ".lock"}


def test_two_processes_at_once_build_once(made_up: Callable[[str], Path]) -> None:
    """The second waits for the first one's library."""
    log = made_up('echo built > "$2.part"; sleep 0.2; mv "$2.part" "$2"')
    command = (sys.executable, "-c", "from aobatch.kernels import library; print(library().path)")
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    found = {process.communicate()[0].strip() for process in processes}

    assert len(found) == 1
    assert log.read_text() == "called\n"


def test_a_failed_build_is_one_sentence_and_leaves_nothing(
    made_up: Callable[[str], Path], tmp_path: Path
) -> None:
    """It names the compiler's own reason."""
    made_up('echo "x.c:1: error: no such instruction" >&2; exit 1')

    with pytest.raises(KernelsError, match=r"compiler .* failed: x.c:1: error: no such instr"):
        library.__wrapped__()
    left = [path.suffix for path in (tmp_path / "cache/aobatch/kernels").iterdir()]
    assert left == [".lock"]


def test_without_a_compiler_one_is_told_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the system, or by a package."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(kernels, "find_spec", lambda _: None)

    with pytest.raises(KernelsError, match=r"no C compiler .*apt install gcc.*ziglang"):
        find_compiler()


def test_a_processor_without_fused_multiply_add_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It names what lacks, and of a machine of another kind that."""
    monkeypatch.setattr(kernels, "_processor_flags", lambda: frozenset({"avx2"}))
    monkeypatch.setattr(kernels.platform, "machine", lambda: "x86_64")
    with pytest.raises(KernelsError, match="this processor has no fma, which"):
        library.__wrapped__()

    monkeypatch.setattr(kernels.platform, "machine", lambda: "s390x")
    with pytest.raises(KernelsError, match="no support for s390x"):
        library.__wrapped__()


def test_a_folder_that_others_can_write_is_refused(
    made_up: Callable[[str], Path], tmp_path: Path
) -> None:
    """Nothing is built there, nothing that lies there is used."""
    log, folder = made_up('echo built > "$2"'), tmp_path / "cache/aobatch/kernels"
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    with pytest.raises(KernelsError, match=r"can be written by, others; remove it"):
        library.__wrapped__()

    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(KernelsError, match=r"belongs to, or can be written by"):
        library.__wrapped__()
    assert not log.exists()


@pytest.mark.parametrize(
    ("program", "reason"),
    [("import sys; sys.exit('other numbers')", "other numbers"), ("import os; os.abort()", "-6")],
    ids=["differs", "dies"],
)
def test_operators_that_fail_their_trial_are_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, program: str, reason: str
) -> None:
    """In a process of its own, whose end is survived; the next start tries again."""
    (tmp_path / "trial_of_operators.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setattr(choice, "_TRIAL", "trial_of_operators")
    made = kernels.Library(tmp_path / "made.so", "made up 1.0")
    monkeypatch.setattr(choice, "library", lambda: made)

    with pytest.raises(KernelsError, match=rf"fail with onnxruntime [\d.]+: .*{reason}"):
        choice.operators()
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["trial_of_operators.py"]
