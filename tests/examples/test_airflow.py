"""Laws of the operator of jobs/airflow where no Airflow is: how it stops and tells what it ran.

Stand-ins have what the operator uses, as Airflow documents it; tests/airflow has the real ones.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from forking import ForkServer
from waiting import HANG_SECONDS, wait_until

ROOT = Path(__file__).parents[2]
FAKE_COMMAND = ROOT / "tests/cli/fake_command.py"


class Hook:
    """Runs a command in a session of its own and hears both of its streams as one."""

    def __init__(self) -> None:
        self.sub_process: subprocess.Popen[bytes] | None = None

    def run_command(self, command: list[str]) -> SimpleNamespace:
        """Give the exit code and the last line."""
        pipe: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.sub_process = subprocess.Popen(command, start_new_session=True, **pipe)
        assert self.sub_process.stdout is not None
        line = b""
        for line in self.sub_process.stdout:  # noqa: B007 - the last one counts
            pass
        exit_code = self.sub_process.wait()
        self.sub_process.stdout.close()
        return SimpleNamespace(exit_code=exit_code, output=line.decode().rstrip())

    def send_sigterm(self) -> None:
        """Stop the process and its children."""
        if self.sub_process is not None:
            os.killpg(os.getpgid(self.sub_process.pid), signal.SIGTERM)


class Operator:
    """What all operators are."""

    def __init__(self, **options: object) -> None:
        self.options_of_all = options


class TryAgain(Exception):  # noqa: N818 - a stand-in
    """Airflow tries the task again."""


class GiveUp(Exception):  # noqa: N818 - a stand-in
    """Airflow does not."""


@pytest.fixture
def operator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, fork_server: ForkServer
) -> Callable[..., Any]:
    """Give a function that makes an operator of the real command with the fake backend."""

    def identity(*_: object, **__: object) -> Callable[..., Any]:
        return lambda function: lambda *_, **__: function

    names = {
        "airflow.providers.standard.hooks.subprocess": {"SubprocessHook": Hook},
        "airflow.providers.standard.sensors.filesystem": {"FileSensor": object},
        "airflow.sdk": {"BaseOperator": Operator, "Context": dict, "dag": identity, "task": None},
        "airflow.sdk.exceptions": {"AirflowException": TryAgain, "AirflowFailException": GiveUp},
    }
    for name, members in names.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    spec = spec_from_file_location("aobatch_dag", ROOT / "jobs/airflow/aobatch_dag.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    source = tmp_path / "in.jsonl"
    source.write_text("".join(f'{{"prompt":"p{number}"}}\n' for number in range(200)))

    def make(pace: str, *options: str) -> Any:  # noqa: ANN401 - of a file that is no module
        fork_server.start()
        command = tmp_path / "aobatch"
        command.write_text(f'#!/bin/sh\nexec {fork_server.python} {FAKE_COMMAND} "{pace}" "$@"\n')
        command.chmod(0o755)
        files = {"requests": str(source), "answers": str(tmp_path / "out.jsonl")}
        return module.AobatchOperator(command=str(command), options=options, **files)

    return make


def test_killed_task_stops_its_run_and_the_next_try_goes_on(
    operator: Callable[..., Any], tmp_path: Path
) -> None:
    """A cleared or late task ends its command by SIGTERM, and leaves no process."""
    killed, ends = operator("held 9"), list[BaseException]()

    def execute() -> None:
        try:
            killed.execute({})
        except (TryAgain, GiveUp) as error:
            ends.append(error)

    thread = threading.Thread(target=execute)
    thread.start()
    state = tmp_path / "out.jsonl.aobatch/ledger.sqlite3-wal"
    wait_until(lambda: state.exists() and state.stat().st_size)
    killed.on_kill()
    thread.join(HANG_SECONDS)

    (error,) = ends
    assert isinstance(error, TryAgain)
    assert '"state":"interrupted"' in str(error)
    assert killed.hook.sub_process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.killpg(killed.hook.sub_process.pid, 0)
    assert not (tmp_path / "out.jsonl").exists()

    summary = operator("0").execute({})
    assert (summary["state"], summary["answered"]) == ("finished", 200)


def test_kill_ahead_of_a_run_or_behind_it_is_none(operator: Callable[..., Any]) -> None:
    """A task that is killed before its command began, or after it ended, has nothing to stop."""
    task = operator("0")
    task.on_kill()
    task.execute({})

    task.on_kill()


def test_final_exit_code_gives_up(operator: Callable[..., Any]) -> None:
    """Airflow hears why no other try would help."""
    with pytest.raises(GiveUp, match=r"exit code 2: .*No such option"):
        operator("0", "--no-such-option").execute({})
