"""Long laws of jobs that workers of Ray compute: kills by the dozen, nodes that are lost."""

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from many_lines import write_many_lines
from ray_command import RayCommand, computed_locally
from ray_jobs import Place, read_product, write_input
from waiting import HANG_SECONDS, wait_until

from aobatch.executors.ray import driver
from aobatch.executors.ray.pool import Member
from aobatch.models.store.folder import ModelFolder

pytestmark = [pytest.mark.xdist_group("ray"), pytest.mark.long]

DRIVER_JOB = Path(__file__).with_name("driver_job.py")
NUM_LINES = 320
NUM_WORKER_KILLS = 20
NUM_DRIVER_KILLS = 5
WAIT_FOR_TWO = """
import time, ray
while True:
    try:
        ray.init(log_to_driver=False)
        break
    except ConnectionError:
        time.sleep(0.5)
while sum(node["Alive"] for node in ray.nodes()) < 2:
    time.sleep(0.1)
"""


def test_twenty_kills_of_workers_change_no_byte(place: Place, members: list[Member]) -> None:
    """Local, one worker, two, and two of which one is killed twenty times: the same answers."""
    write_input(place.source, NUM_LINES)
    expected = place.run_local()
    draw = random.Random(1)
    killed: list[int] = []

    def kill_often(num_lines: int) -> None:
        # One that has a single request left may be a trial, which would convict that rightly.
        at_work = [m.process for m in members if len(m.assigned) > 1 and m.process not in killed]
        if at_work and len(killed) < min(NUM_WORKER_KILLS, num_lines // 10):
            killed.append(draw.choice(at_work))
            os.kill(killed[-1], signal.SIGKILL)

    assert place.run_ray(1) == expected
    assert place.run_ray(2) == expected
    (place.folder / "ray-2").rename(place.folder / "unhurt")
    assert place.run_ray(2, kill_often) == expected
    assert len(killed) == NUM_WORKER_KILLS


def test_a_worker_that_stands_still_is_replaced(
    place: Place, members: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a worker has that says nothing is computed by others; itself it is ended."""
    write_input(place.source, NUM_LINES)
    expected = place.run_local()
    monkeypatch.setattr(driver, "SILENCE_SECONDS", 2.0)
    stopped: list[int] = []

    def stop_one(num_lines: int) -> None:
        at_work = [member.process for member in members if member.assigned and member.process]
        if num_lines > 30 and at_work and not stopped:
            stopped.append(at_work[0])
            os.kill(at_work[0], signal.SIGSTOP)

    found = place.run_ray(2, stop_one, slots=4)

    assert found == expected
    assert [text for text in place.warnings if "says nothing" in text]
    wait_until(lambda: not Path(f"/proc/{stopped[0]}").exists())


def test_five_kills_of_the_driver_change_no_byte(
    tmp_path: Path, real_command: Path, tiny_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job whose driver is killed five times goes on each time, and ends as a local one."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    write_input(tmp_path / "in.jsonl", 1500)
    options = ("--max-num-seqs", "4")
    for _ in range(NUM_DRIVER_KILLS):
        RayCommand(real_command, tmp_path, *options).kill()
    assert RayCommand(real_command, tmp_path, *options).finish()[0] == 0

    found = read_product(tmp_path / "out.jsonl")
    assert found == computed_locally(real_command, tmp_path, *options)
    assert found.statistics["runs"] == NUM_DRIVER_KILLS + 1


class Node:
    """A node of a cluster on this machine."""

    def __init__(self, *options: str) -> None:
        command = (sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1")
        self.process = subprocess.Popen(
            [*command, "--disable-usage-stats", *options],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Lose the node at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Node]]:
    """Start a cluster of two nodes of one CPU each, and name it in the environment."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)  # a Ray of other tests is private
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))
    port = random.randrange(20_000, 30_000)
    head = Node("--head", f"--port={port}", "--include-dashboard=false")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    started = [head]
    try:
        started.append(Node(f"--address=127.0.0.1:{port}"))
        subprocess.run([sys.executable, "-c", WAIT_FOR_TWO], check=True, timeout=HANG_SECONDS)
        yield started
    finally:
        for node in reversed(started):
            if node.process.poll() is None:
                node.kill()


def test_a_node_that_is_lost_costs_nothing(
    tmp_path: Path,
    real_command: Path,
    tiny_home: Path,
    nodes: list[Node],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of two nodes with a worker each, one is killed in the middle: every answer is there."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tiny_home))
    write_input(tmp_path / "in.jsonl", 3000)
    options = ("--max-num-seqs", "4")
    run = RayCommand(real_command, tmp_path, *options)
    run.wait_for_results()
    time.sleep(2)  # by now both are at work
    nodes[1].kill()
    code, printed, said = run.finish()

    assert (code, printed) == (0, b""), said
    assert b"worker 1 is lost" in said
    found = read_product(tmp_path / "out.jsonl")
    assert found == computed_locally(real_command, tmp_path, *options)


def test_a_million_requests_take_250_megabytes_of_the_driver(
    tmp_path: Path, tiny_fp32: ModelFolder, tell: Callable[[str], None]
) -> None:
    """What the driver keeps does not grow with the job; rates are told, and not judged."""
    few = write_many_lines(tmp_path / "few.jsonl", 3_000)
    many = write_many_lines(tmp_path / "many.jsonl", 1_000_000)
    command = [sys.executable, DRIVER_JOB, tiny_fp32.path, few, many]
    result = subprocess.run(command, capture_output=True, check=True, timeout=3600)

    taken = json.loads(result.stdout)
    tell(f"driver of Ray: {taken}")
    assert taken["total"] > 800_000
    assert taken["growth"] <= 250e6, taken
