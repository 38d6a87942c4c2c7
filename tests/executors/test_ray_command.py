"""Laws of `aobatch run --executor ray` as a process among others."""

import os
import signal
import sqlite3
import subprocess
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from ray_jobs import read_product, write_input

pytestmark = pytest.mark.xdist_group("ray")

HANG_SECONDS = 90
STOP_SECONDS = 4
"""A stop takes half of that on a machine that has nothing else to do."""
LOOPBACK = "0100007F"


class RayCommand:
    """A run of the command whose processes, however deep, can be found."""

    def __init__(self, command: Path, folder: Path, *options: str) -> None:
        self.output = folder / "out.jsonl"
        self._mark = f"AOBATCHTEST={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        ray = ("--executor", "ray", "--workers", "2") if "local" not in options else ()
        self.process = subprocess.Popen(
            [command, "run", folder / "in.jsonl", "-o", self.output, "--max-failures", "100%", *ray]
            + [option for option in options if option != "local"],
            env=os.environ | {name: value, "SOURCE_DATE_EPOCH": "1700000000"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def finish(self) -> tuple[int, bytes, bytes]:
        """Wait for the end; give exit code and what was printed."""
        printed = self.process.communicate(timeout=HANG_SECONDS)
        return self.process.returncode, *printed

    def processes(self) -> list[int]:
        """Give all processes that the run has started and itself."""
        return [int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_own(folder)]

    def wait_until(self, has_come: Callable[[], bool]) -> None:
        """Wait for something to happen while the run lasts."""
        deadline = time.monotonic() + HANG_SECONDS
        while not has_come():
            assert self.process.poll() is None, self.finish()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_results(self) -> None:
        """Wait until this run has added results to the ledger."""
        before = self._count_results()
        self.wait_until(lambda: self._count_results() > before)

    def wait_for_processes_to_end(self) -> None:
        """Wait for all that the run has started."""
        deadline = time.monotonic() + HANG_SECONDS
        while self.processes():
            assert time.monotonic() < deadline, self.processes()
            time.sleep(0.02)

    def _count_results(self) -> int:
        path = self.output.with_name("out.jsonl.aobatch") / "ledger.sqlite3"
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])
        except sqlite3.OperationalError:
            return 0

    def _is_own(self, folder: Path) -> bool:
        try:
            is_marked = self._mark.encode() in (folder / "environ").read_bytes()
            return is_marked and "State:\tZ" not in (folder / "status").read_text()
        except OSError:
            return False


def listening_addresses(processes: list[int]) -> set[str]:
    """Give the local addresses, in hexadecimal, at which processes can be connected to."""
    sockets = set()
    for process in processes:
        for link in Path(f"/proc/{process}/fd").glob("*"):
            try:
                sockets.add(link.readlink().name)
            except OSError:
                continue
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(local.split(":")[0])
    return found


@pytest.fixture
def options(tmp_path: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Write an input, and use the tiny model with few slots, so that a run lasts a while."""
    write_input(tmp_path / "in.jsonl", 600, num_bad=6)
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    return ("--max-num-seqs", "4", "--default", "max_tokens=12")


def test_run_that_is_stopped_or_killed_leaves_nothing_but_its_results(
    tmp_path: Path, command: Path, options: tuple[str, ...]
) -> None:
    """It says nothing of Ray, listens on loopback alone, and can be gone on with in one process."""
    stopped = RayCommand(command, tmp_path, *options)
    stopped.wait_for_results()
    addresses = listening_addresses(stopped.processes())
    started = time.monotonic()
    stopped.process.send_signal(signal.SIGINT)
    code, printed, said = stopped.finish()
    seconds = time.monotonic() - started

    assert addresses
    assert all(address.endswith(LOOPBACK) for address in addresses), addresses
    assert (code, stopped.processes()) == (-signal.SIGINT, [])
    assert seconds < STOP_SECONDS
    assert printed == b""
    assert b"ray" not in said.replace(b"--executor ray", b"").lower(), said

    killed = RayCommand(command, tmp_path, *options)
    killed.wait_for_results()
    killed.process.kill()
    killed.finish()
    killed.wait_for_processes_to_end()

    last = RayCommand(command, tmp_path, "local", *options)
    assert last.finish()[0] == 0
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole/in.jsonl").write_bytes((tmp_path / "in.jsonl").read_bytes())
    assert RayCommand(command, tmp_path / "whole", "local", *options).finish()[0] == 0
    found = read_product(tmp_path / "out.jsonl")
    assert found == read_product(tmp_path / "whole/out.jsonl")
    assert found.statistics["runs"] == 3
