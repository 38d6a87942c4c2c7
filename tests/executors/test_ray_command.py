"""Laws of `aobatch run --executor ray` as a process among others."""

import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable
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
        return [
            int(folder.name) for folder in Path("/proc").glob("[0-9]*") if self._is_own(folder)
        ]

    def wait_until(self, has_come: Callable[[], bool]) -> None:
        """Wait for something to happen while the run lasts."""
        deadline = time.monotonic() + HANG_SECONDS
        while not has_come():
            assert self.process.poll() is None, self.finish()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def wait_for_results(self) -> None:
        """Wait until the ledger has results."""
        path = self.output.with_name("out.jsonl.aobatch") / "ledger.sqlite3-wal"
        self.wait_until(lambda: path.exists() and path.stat().st_size > 60_000)

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
def options(tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Use the tiny model, and few slots, so that a run lasts a while."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    return ("--max-num-seqs", "4", "--default", "max_tokens=12")


def test_killed_driver_leaves_no_process_and_the_next_run_goes_on(
    tmp_path: Path, command: Path, options: tuple[str, ...]
) -> None:
    """Nothing but loopback is listened on, SIGKILL takes all down, and what is printed is ours."""
    write_input(tmp_path / "in.jsonl", 1500, num_bad=6)
    first = RayCommand(command, tmp_path, *options)
    first.wait_for_results()
    addresses = listening_addresses(first.processes())
    first.process.kill()
    first.finish()
    deadline = time.monotonic() + HANG_SECONDS
    while first.processes():
        assert time.monotonic() < deadline, first.processes()
        time.sleep(0.05)

    second = RayCommand(command, tmp_path, *options)
    second.wait_for_results()
    started = time.monotonic()
    second.process.send_signal(signal.SIGINT)
    code, printed, said = second.finish()
    seconds = time.monotonic() - started
    third = RayCommand(command, tmp_path, *options)
    ended, *third_said = third.finish()
    whole = tmp_path / "whole"
    whole.mkdir()
    write_input(whole / "in.jsonl", 1500, num_bad=6)
    RayCommand(command, whole, "local", *options).finish()

    assert all(address.endswith(LOOPBACK) for address in addresses), addresses
    assert addresses
    assert (code, second.processes()) == (130, [])
    assert seconds < STOP_SECONDS
    assert printed == b""
    assert said.splitlines()[-1].startswith(b"{") or b"again" in said, said
    assert ended == 0
    assert b"ray" not in b"".join(third_said).lower()
    found = read_product(tmp_path / "out.jsonl")
    assert found == read_product(whole / "out.jsonl")
    assert found.statistics["runs"] == 3
    assert not list(Path("/tmp").glob(f"aobatch-ray-*/{second.process.pid}"))
