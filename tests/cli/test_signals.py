"""Laws of signals that end a run: no instant is a bad one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

SLOW_MODULE = """
import sys
print("importing", flush=True)
try:
    for _ in range(6_000_000):
        pass
except BaseException as error:
    # What an extension in C++ makes of an exception that its import meets.
    raise ImportError("initialization failed")
is_complete = True
"""
IMPORTING = """
import time
from aobatch.cli.ending import {context} as context
try:
    with context({argument}):
        import slow_module
        time.sleep(20)
except KeyboardInterrupt as stop:
    assert slow_module.is_complete
    print(type(stop).__name__)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_an_import_waits_for_its_end(tmp_path: Path, number: int) -> None:
    """An extension that is being loaded never meets the exception that stops a run."""
    process = _start(tmp_path, IMPORTING.format(context="interruptible", argument=""))
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"

    process.send_signal(number)

    assert process.communicate(timeout=10)[0] == "Interrupted\n"


def test_time_limit_during_an_import_waits_for_its_end(tmp_path: Path) -> None:
    """A limit that is reached while an extension is loaded stops the run behind that."""
    process = _start(tmp_path, IMPORTING.format(context="limited_time", argument="0.03"))

    assert process.communicate(timeout=10)[0] == "importing\nOutOfTime\n"


def _start(folder: Path, text: str) -> subprocess.Popen[str]:
    (folder / "slow_module.py").write_text(SLOW_MODULE)
    (folder / "importing.py").write_text(text)
    return subprocess.Popen(
        [sys.executable, folder / "importing.py"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_signals_on_each_others_heels_are_told_by_no_traceback(tmp_path: Path) -> None:
    """Of two that come while native code keeps the command from both, one stops it in silence."""
    busy = """
from aobatch.cli.ending import interruptible
try:
    with interruptible():
        print("busy", flush=True)
        sum(range(40_000_000))
except KeyboardInterrupt as stop:
    print(type(stop).__name__)
"""
    process = _start(tmp_path, busy)
    assert process.stdout is not None
    assert process.stdout.readline() == "busy\n"

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=30) == ("Interrupted\n", "")
