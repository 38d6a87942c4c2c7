"""Laws of commands that are forked for tests: nobody can tell them from those that are started."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from forking import FORKS
from waiting import HANG_SECONDS

pytestmark = pytest.mark.skipif(not FORKS, reason="commands are forked on Linux alone")
COMMAND = (sys.executable, "-m", "aobatch")


@pytest.mark.parametrize("arguments", ["--version", "run --nothing", "run gone.jsonl", "status -h"])
def test_forked_command_does_what_a_started_one_does(tmp_path: Path, arguments: str) -> None:
    """Exit code, both streams and the working folder are the same, from shells as well."""
    (tmp_path / "in.jsonl").write_text("nonsense\n")
    forked, started = (
        subprocess.run(
            [*before, *COMMAND, *arguments.split()],
            cwd=tmp_path,
            capture_output=True,
            check=False,
        )
        for before in ((), ("env",))
    )

    assert (forked.returncode, forked.stdout, forked.stderr) == (
        started.returncode,
        started.stdout,
        started.stderr,
    )


def test_command_for_shells_ends_as_the_forked_one(command: Path) -> None:
    """The exit code, and the signal, of what the fork server made arrive at a shell."""
    assert subprocess.run(["sh", "-c", f"{command} run gone.jsonl"], check=False).returncode == 66
    shell = subprocess.Popen(["env", str(command), "run", "-"], stdin=subprocess.PIPE)
    shell.send_signal(signal.SIGTERM)

    assert shell.wait(HANG_SECONDS) == -signal.SIGTERM
    shell.communicate()


def test_forked_process_is_a_child(tmp_path: Path) -> None:
    """The process id is that of the command, whose parent is the one that asked for it."""
    reader, writer = os.pipe()
    with subprocess.Popen([*COMMAND, "run", "-", "-o", str(tmp_path / "out")], stdin=reader) as run:
        status = Path(f"/proc/{run.pid}/status").read_text()
        run.kill()
    os.close(reader)
    os.close(writer)

    assert f"PPid:\t{os.getpid()}\n" in status
