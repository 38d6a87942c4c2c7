"""Commands of tests, forked from a process that has imported all they need.

To start Python and import libraries takes most of the time of a short command. Where a test asks
for `python -m aobatch ...`, or for a form of it that the tests have, the child is forked instead;
it is a child as any other. What is started through another program (`env`, `sh`, `nohup`), or
with other settings of the interpreter than the suite itself, is started anew.
"""

import ctypes
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from threading import Lock

import pytest

TESTS = Path(__file__).parents[1]
FORMS = {
    str(TESTS.parent / name)
    for name in (
        "jobs/library/best_choices.py",
        "jobs/library/run_file.py",
        "jobs/library/score_choices.py",
        "tests/cli/fake_command.py",
        "tests/crash/lingering_command.py",
        "tests/crash/logged_command.py",
        "tests/job/fake_job.py",
    )
}
"""Scripts that may be forked; those that measure their memory may not."""
FORKS = sys.platform == "linux"
"""Whether commands are forked at all: elsewhere nobody can adopt them."""
_PACKAGE = str(TESTS.parent / "batch")
_PR_SET_CHILD_SUBREAPER = 36


class ForkServer:
    """The process that forks, started when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.command, self.python = folder / "aobatch", folder / "python"
        """For shells and for make: the command, and what stands for Python before its forms."""
        self._address = str(folder / "socket")
        self._interpreter = _settings_of_interpreter(os.environ)
        self._lock = Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, and write the commands for shells."""
        if self._process is not None:
            return
        client = f"{sys.executable} -IS {Path(__file__).with_name('fork_client.py')}"
        for path, arguments in ((self.python, ""), (self.command, " -m aobatch")):
            path.write_text(f'#!/bin/sh\nexec {client} {self._address}{arguments} "$@"\n')
            path.chmod(0o755)
        script = str(Path(__file__).with_name("fork_server.py"))
        self._process = subprocess.Popen(
            ["env", "OPENBLAS_NUM_THREADS=1", sys.executable, script, self._address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.communicate()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let `subprocess` fork what can be forked."""
        execute = subprocess.Popen._execute_child  # type: ignore[attr-defined]
        names = signature(execute)

        def execute_or_fork(process: "subprocess.Popen[bytes]", *values: object) -> None:
            options = names.bind(process, *values).arguments
            environment = os.environ if options["env"] is None else options["env"]
            arguments = self._arguments(options["args"], environment)
            if arguments is None or options["preexec_fn"] or options["shell"]:
                execute(process, *values)
                return
            ends = [options[name] for name in ("p2cread", "c2pwrite", "errwrite")]
            request = {
                "arguments": arguments,
                "folder": os.fspath(options["cwd"] or Path.cwd()),
                "environment": {os.fsdecode(k): os.fsdecode(v) for k, v in environment.items()},
                "begins_session": bool(options["start_new_session"]),
                "is_told_end": False,
            }
            descriptors = [place if end == -1 else end for place, end in enumerate(ends)]
            process.pid = self._forked(request, descriptors)
            process._child_created = True  # type: ignore[attr-defined]
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            process._close_pipe_fds(*(options[name] for name in pipes))  # type: ignore[attr-defined]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(subprocess.Popen, "_execute_child", execute_or_fork)
            yield

    def _arguments(self, command: object, environment: Mapping[str, str]) -> list[str] | None:
        """Give what the interpreter is asked for if it may be forked."""
        if not isinstance(command, list | tuple):
            return None
        if _settings_of_interpreter(environment) != self._interpreter:
            return None
        program, *arguments = map(os.fsdecode, command)
        if program == str(self.command):
            return ["-m", "aobatch", *arguments]
        may_fork = arguments[:2] == ["-m", "aobatch"] or arguments[:1] in [[f] for f in FORMS]
        return arguments if program == sys.executable and may_fork else None

    def _forked(self, request: dict[str, object], descriptors: list[int]) -> int:
        with self._lock, _adopting(), socket.socket(socket.AF_UNIX) as connection:
            self.start()
            connection.connect(self._address)
            socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], descriptors)
            with connection.makefile() as answer:
                # Its end says that the process has been left behind, and so is ours.
                return int(answer.read())


@contextmanager
def _adopting() -> Iterator[None]:
    """Become the parent of processes that descendants leave behind."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _settings_of_interpreter(environment: Mapping[str, str]) -> dict[str, str]:
    """Give the variables that Python reads when it starts."""
    found = {
        name: value
        for name, value in environment.items()
        if name.startswith(("PYTHON", "LC_", "LANG", "TZ"))
    }
    if found.get("PYTHONPATH") in {_PACKAGE, os.environ.get("PYTHONPATH")}:
        found.pop("PYTHONPATH", None)
    return found
