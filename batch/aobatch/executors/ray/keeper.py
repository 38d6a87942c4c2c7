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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

VARIABLE = "AOBATCH_RAY_SESSION"
"""Set for all processes of a session, to the name of its folder."""
ROOT = Path("/tmp")
"""Not TMPDIR: the path of a socket has 107 bytes at most."""


@contextmanager
def session_folder() -> Iterator[Path]:
    """Give a folder for the time of the block, or of this process if that ends before."""
    folder = Path(tempfile.mkdtemp(prefix="aobatch-ray-", dir=ROOT))
    command = [sys.executable, "-m", __name__, str(folder)]
    # In a session of its own: what a terminal sends to all its processes is not meant for it.
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as keeper:
        try:
            yield folder
        finally:
            keeper.kill()
            shutil.rmtree(folder, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """End all processes of a session, and remove its folder."""
    mark = f"{VARIABLE}={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                os.kill(int(process.name), signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()  # until the driver has gone
    clean_up(Path(sys.argv[1]))
