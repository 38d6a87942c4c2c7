"""Laws of the operators' build: once, into a folder of one's own, or one sentence why not."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from waiting import HANG_SECONDS

from aobatch import kernels
from aobatch.kernels import KernelsError, find_compiler, library
from aobatch.runners import choice

COMPILER = """#!/bin/sh
if [ "$1" = --version ]; then echo "made up 1.0"; exit; fi
while [ "$1" != -o ]; do last="${{1##*/}}"; shift; done
echo "$last" >> {log}
{action}
"""
"""It notes what it is called for: a unit, as `rows.c`, or to link what ends in an object."""
UNITS = sorted(path.name for path in kernels.SOURCES if path.suffix == ".c")


def assert_built_once(log: Path) -> None:
    """Each unit was compiled, and then they were linked."""
    *compiled, linked = log.read_text().split()
    assert (sorted(compiled), linked[-2:]) == (UNITS, ".o")


def assert_nothing_left(home: Path) -> None:
    """The folder of libraries holds but the lock."""
    assert [path.suffix for path in (home / "cache/aobatch/kernels").iterdir()] == [".lock"]


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
    assert found.compiler == "made up 1.0"
    assert_built_once(log)
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
    assert_built_once(log)


def test_a_failed_build_is_one_sentence_and_leaves_nothing(
    made_up: Callable[[str], Path], tmp_path: Path
) -> None:
    """It names the compiler's own reason."""
    made_up('echo "x.c:1: error: no such instruction" >&2; exit 1')

    with pytest.raises(KernelsError, match=r"compiler .* failed: x.c:1: error: no such instr"):
        library.__wrapped__()
    assert_nothing_left(tmp_path)


@pytest.mark.parametrize(
    ("failing", "speaker"),
    [("rows.c|tiles.c", r"rows\.c"), ("*.o", r"\w+\.o")],
    ids=["units", "link"],
)
def test_one_failure_among_several_calls_is_one_sentence_and_leaves_nothing(
    made_up: Callable[[str], Path], tmp_path: Path, failing: str, speaker: str
) -> None:
    """Of two units that fail the first one speaks, and nothing is linked without them."""
    refuse = f'case "$last" in {failing}) echo "$last: error: refused" >&2; exit 1;; esac'
    log = made_up(f'{refuse}; echo built > "$2"')

    with pytest.raises(KernelsError, match=rf"failed: {speaker}: error: refused$"):
        library.__wrapped__()
    assert_nothing_left(tmp_path)
    assert any(name.endswith(".o") for name in log.read_text().split()) == (failing == "*.o")


def test_two_processors_compile_what_takes_longest_at_once(
    made_up: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here the two units of attention wait for each other."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    log = made_up(
        f"""
        case "$last" in attention_*) touch "{tmp_path}/$last" ;; *) echo built > "$2"; exit ;; esac
        for _ in $(seq {100 * HANG_SECONDS}); do
            [ "$(ls {tmp_path}/attention_* | wc -l)" = 2 ] && echo built > "$2" && exit
            sleep 0.01
        done
        exit 1"""
    )
    library.__wrapped__()

    assert_built_once(log)


def test_one_processor_compiles_one_unit_at_a_time(
    made_up: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who may use one of many processors takes no more."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7})
    order = tmp_path / "order"
    made_up(f'echo begun >> {order}; echo built > "$2"; echo ended >> {order}')
    library.__wrapped__()

    assert order.read_text().split() == ["begun", "ended"] * (len(UNITS) + 1)


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
