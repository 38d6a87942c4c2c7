"""Laws of the command as a process: signals, at any instant, and streams that go away."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fake_command import COMMAND


@pytest.mark.parametrize("shell", [[], ["sh", "-c", 'exec "$@" 2>&-', "sh"]], ids=["pipe", "none"])
def test_standard_error_that_went_away_does_not_fail_the_job(
    source: Path, shell: list[str]
) -> None:
    """A job whose terminal or log reader is gone finishes."""
    read_end, write_end = os.pipe()
    os.close(read_end)

    result = subprocess.run([*shell, *COMMAND, "0", "run", source], stderr=write_end, check=False)

    os.close(write_end)
    assert result.returncode == 0
    assert len(source.with_name("in.out.jsonl").read_bytes().splitlines()) == 400


def test_reader_that_left_ends_the_command_quietly(source: Path) -> None:
    """`aobatch run IN -o - | head -1` dies as other filters do, tells it and can be run again."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    summary = source.with_name("s.json")
    command = [*COMMAND, "0", "run", source, "-q", "-o", "-", "--summary-file", summary]

    result = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)

    os.close(write_end)
    assert result.returncode == -signal.SIGPIPE
    assert result.stderr == b""
    assert json.loads(summary.read_text())["exit_code"] == 141
    again = subprocess.run(command, capture_output=True, check=True)
    assert len(again.stdout.splitlines()) == 400


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_first_signal_stops_cleanly(source: Path, number: signal.Signals) -> None:
    """The command says that it was stopped, dies by the signal and keeps its state."""
    process = subprocess.Popen(
        [*COMMAND, "held 9", "run", source], stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    assert process.stderr.readline() == "400 lines\n"

    process.send_signal(number)

    _, message = process.communicate()
    assert process.returncode == -number
    assert message == f"aobatch: stopped by {number.name}; what is done is kept, run again\n"
    assert source.with_name("in.out.jsonl.aobatch").is_dir()


def test_time_limit_stops_cleanly_and_the_next_run_goes_on(source: Path) -> None:
    """The limit ends the command with 75 and one sentence; without it the job is finished."""
    command = [*COMMAND, "held 9", "run", source, "--time-limit", "1s"]
    stopped = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)

    assert stopped.returncode == 75
    assert stopped.stderr.splitlines()[-1] == (
        "aobatch: the time limit is reached; what is done is kept, run again"
    )
    assert not source.with_name("in.out.jsonl").exists()
    assert subprocess.run([*COMMAND, "0", "run", source, "-q"], check=False).returncode == 0
    assert len(source.with_name("in.out.jsonl").read_bytes().splitlines()) == 400


def test_second_signal_kills_at_once() -> None:
    """A command that cannot stop cleanly obeys the second signal."""
    stuck = (
        "import time, signal; from aobatch.cli.ending import interruptible\n"
        "with interruptible():\n"
        "    try:\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "    finally:\n"
        "        print('stopping', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", stuck], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    for word in ("ready", "stopping"):
        assert process.stdout.readline().strip() == word
        process.send_signal(signal.SIGTERM)

    assert process.wait() == -signal.SIGTERM
    process.stdout.close()


@pytest.mark.parametrize(
    ("unbuffered", "arguments"),
    [
        ("", "completion bash"),
        (None, "--help"),
        (None, "--version"),
        (None, "run -h"),
        ("1", "--help"),
        ("1", "completion bash"),
        *(pytest.param("1", words, marks=pytest.mark.long) for words in ("--version", "run -h")),
    ],
)
def test_full_standard_output_of_any_command_is_told(
    unbuffered: str | None, arguments: str
) -> None:
    """What a command prints and nobody takes is one sentence and code 74, also at the very end."""
    environment = dict(os.environ)
    if unbuffered is not None:
        environment["PYTHONUNBUFFERED"] = unbuffered
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [sys.executable, "-m", "aobatch", *arguments.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env=environment,
        )

    assert result.returncode == 74
    assert result.stderr == (
        "aobatch: error: standard output cannot be written: No space left on device; "
        "make room and run again\n"
    )


SLOW_MODULE = """
import signal, time
print("importing", flush=True)
if signal.getitimer(signal.ITIMER_REAL)[0]:
    signal.setitimer(signal.ITIMER_REAL, 0.001)  # the limit of the run is reached now
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
        time.sleep(300)
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

    assert process.communicate()[0] == "Interrupted\n"


def test_time_limit_during_an_import_waits_for_its_end(tmp_path: Path) -> None:
    """A limit that is reached while an extension is loaded stops the run behind that."""
    process = _start(tmp_path, IMPORTING.format(context="limited_time", argument="3600"))

    assert process.communicate()[0] == "importing\nOutOfTime\n"


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

    assert process.communicate() == ("Interrupted\n", "")


STOPPED_IN_NATIVE_CODE = """
import atexit, signal, sys, time
from aobatch.cli import main
from aobatch.executors.local import interruptible

def command(prog_name):
    signal.signal(signal.SIGALRM, lambda *_: sys.exit(75))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    interruptible(lambda: time.sleep(600))

atexit.register(print, "libraries are unloaded")
main.aobatch = command
main.main()
"""


def test_native_code_that_is_left_at_work_ends_with_the_process() -> None:
    """No library is unloaded under a thread that opens a model, which would abort the process."""
    command = [sys.executable, "-c", STOPPED_IN_NATIVE_CODE]

    result = subprocess.run(command, capture_output=True, check=False)

    assert (result.returncode, result.stdout, result.stderr) == (75, b"", b"")
