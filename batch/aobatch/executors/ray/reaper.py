"""A process that cleans up behind a Ray whose driver was killed.

Ray's own processes end with their driver as a rule, but some of them wait a minute for others that
are gone, and none removes the folder of the session.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path("/tmp")
"""Not TMPDIR: the path of a socket has 107 bytes at most."""
ATTEMPTS, PAUSE_SECONDS = 5, 0.2


@contextmanager
def session_folder() -> Iterator[Path]:
    """Make a folder for the time of the block, or of this process if that ends before."""
    folder = Path(tempfile.mkdtemp(prefix="aobatch-ray-", dir=ROOT))
    command = [sys.executable, "-m", __name__, str(folder)]
    # In a session of its own: what a terminal sends to all its processes is not meant for it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as reaper:
        try:
            yield folder
        finally:
            reaper.kill()
            shutil.rmtree(folder, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """End all processes of a session, and remove its folder."""
    for _ in range(ATTEMPTS):  # one that is ended may have been starting another
        for process in _processes(folder):
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)
        time.sleep(PAUSE_SECONDS)
    shutil.rmtree(folder, ignore_errors=True)


def _processes(folder: Path) -> Iterator[int]:
    """Find all processes that have a file of the folder open: each has its log there.

    Neither their names nor their environments tell them, since Ray writes over both.
    """
    for process in (int(path.name) for path in Path("/proc").glob("[0-9]*")):
        if process != os.getpid() and any(x.startswith(f"{folder}/") for x in open_files(process)):
            yield process


def open_files(process: int) -> list[str]:
    """Give what a process has open; nothing of one that has gone or belongs to somebody else."""
    found = []
    with suppress(OSError):
        for link in Path(f"/proc/{process}/fd").iterdir():
            with suppress(OSError):  # closed since the folder was listed
                found.append(str(link.readlink()))
    return found


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the driver has gone
    clean_up(Path(sys.argv[1]))
