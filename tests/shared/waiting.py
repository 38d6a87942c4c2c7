"""Waiting for events, and time that a processor spent: no test depends on a machine's speed."""

import os
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

HANG_SECONDS = 300
"""Nothing in the tests lasts that long on any machine; what does hangs."""


def wait_until(
    has_come: Callable[[], object], process: "subprocess.Popen[bytes] | None" = None
) -> None:
    """Wait for an event; AssertionError if a process that should bring it has ended."""
    deadline = time.monotonic() + HANG_SECONDS
    while not has_come():
        assert time.monotonic() < deadline, "hangs"
        assert process is None or process.poll() is None or has_come(), "the process has ended"
        time.sleep(0.01)


def processor_seconds(process: int) -> float:
    """Give what a running child has used of processors so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_seconds() -> float:
    """Give what all children that have ended used of processors."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
