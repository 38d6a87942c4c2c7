"""Laws of `aobatch run --executor ray` as a process among others."""

import os
import signal
from pathlib import Path

import pytest
from ray_command import RayCommand, computed_locally
from ray_jobs import read_product, write_input

from aobatch.executors.ray.reaper import open_files

pytestmark = pytest.mark.xdist_group("ray")

LINES = 300
LOOPBACK = "0100007F"


def listening_addresses(processes: list[int]) -> set[str]:
    """Give the local addresses, in hexadecimal, at which processes can be connected to."""
    sockets = {link for process in processes for link in open_files(process)}
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == "0A" and f"socket:[{inode}]" in sockets:
                found.add(local.split(":")[0])
    return found


@pytest.fixture
def options(tmp_path: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Write an input, and use the tiny model with few slots, so that a run lasts a while.

    No operators are built meanwhile, whose compiler would count as the run's own time.
    """
    write_input(tmp_path / "in.jsonl", LINES, num_bad=6)
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    return ("--max-num-seqs", "4", "--default", "max_tokens=12", "--kernels", "stock")


def test_file_that_is_closed_meanwhile_hides_none_of_the_others(tmp_path: Path) -> None:
    """The folder of open files lists what it is itself read by, which is closed by then."""
    with (tmp_path / "log").open("w") as log:
        assert log.name in open_files(os.getpid())


def test_run_that_is_stopped_or_killed_leaves_nothing_but_its_results(
    tmp_path: Path, real_command: Path, command: Path, options: tuple[str, ...]
) -> None:
    """It stops early, says nothing of Ray, hears loopback alone, and one process can go on."""
    stopped = RayCommand(real_command, tmp_path, *options)
    stopped.wait_for_results()
    addresses = listening_addresses(stopped.processes())
    stopped.process.send_signal(signal.SIGINT)
    code, printed, said = stopped.finish()

    assert stopped.session
    assert addresses
    assert all(address.endswith(LOOPBACK) for address in addresses), addresses
    assert (code, stopped.processes()) == (-signal.SIGINT, [])
    assert 0 < stopped.count_results() < LINES
    assert printed == b""
    assert b"ray" not in said.replace(b"--executor ray", b"").lower(), said

    killed = RayCommand(real_command, tmp_path, *options)
    killed.kill()
    killed.wait_for_processes_to_end()

    last = RayCommand(command, tmp_path, "local", *options)
    assert last.finish()[0] == 0
    found = read_product(tmp_path / "out.jsonl")
    assert found == computed_locally(command, tmp_path, *options)
    assert found.statistics["runs"] == 3
