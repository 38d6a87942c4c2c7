"""Laws of requests that kill their process, or at which the engine fails."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import output, requests, run, run_and_stop, write_input

from aobatch.api.request import Limits, Parser
from aobatch.errors import ModelError
from aobatch.executors import ModelIdentity
from aobatch.job.config import JobConfig
from aobatch.job.context import Progress
from aobatch.job.in_flight import InFlight
from aobatch.job.runner import run_job

FAKE_JOB = Path(__file__).with_name("fake_job.py")


def process(folder: Path) -> int:
    """Run the job of a folder in a process of its own; give how it ended."""
    names = (folder / "in.jsonl", folder / "out.jsonl", "0", folder / "log")
    command = [sys.executable, FAKE_JOB, *map(str, names)]
    return subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode


def codes(folder: Path) -> list[str | None]:
    """Give the error code of each output line, None for an answer."""
    return [line.get("error", {}).get("code") for line in output(folder)]  # type: ignore[attr-defined]


def test_request_that_kills_its_process_gets_an_error(tmp_path: Path) -> None:
    """Two runs die, the third one isolates what they were at and answers everything else.

    Who watches hears how many of them are computed apart, and of a further run nothing.
    """
    write_input(tmp_path / "in.jsonl", requests(["a", "die now", "b", "c", "d"]))
    assert [process(tmp_path) for _ in range(2)] == [-signal.SIGKILL] * 2

    warnings: list[str] = []
    for _ in range(2):
        run_job(
            JobConfig((tmp_path / "in.jsonl",), tmp_path / "out.jsonl"),
            FakeBackend(),
            Warned(warnings),
        )

    assert codes(tmp_path) == [None, "engine_crash", None, None, None]
    # The fake takes up three requests at a time.
    assert warnings == [
        "3 requests that may have killed earlier runs are computed in a process of their own"
    ]


def test_two_requests_that_kill_are_told_from_the_others(tmp_path: Path) -> None:
    """Halving finds each of them."""
    prompts = ["die 1", "a", "b", "die 2", "c"]
    write_input(tmp_path / "in.jsonl", requests(prompts))

    while (end := process(tmp_path)) == -signal.SIGKILL:
        pass

    assert end == 0
    assert codes(tmp_path) == ["engine_crash", None, None, "engine_crash", None]


def test_deaths_from_outside_convict_nobody(tmp_path: Path) -> None:
    """However often a process was killed while it computed a request, the request is answered."""
    write_input(tmp_path / "in.jsonl", requests(["a", "b"]))
    run_and_stop(tmp_path, 0)
    flight = tmp_path / "out.jsonl.aobatch/in-flight"
    for _ in range(5):
        flight.write_bytes(b"".join(bytes.fromhex(key) for key in _keys(tmp_path)))
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, Interrupted())

    run(tmp_path)

    assert codes(tmp_path) == [None, None]


def test_request_at_which_the_engine_fails_stops_no_other(tmp_path: Path) -> None:
    """One run answers all other lines; a retry tries the failed ones again."""
    write_input(tmp_path / "in.jsonl", requests(["a", "raise now", "b", "c", "memory now"]))

    report = run(tmp_path).report

    expected = [None, "engine_crash", None, None, "insufficient_memory"]
    assert codes(tmp_path) == expected
    assert report.requests.failed_by_code == {"engine_crash": 1, "insufficient_memory": 1}
    assert run(tmp_path).was_finished
    assert not run(tmp_path, retries_failed=True).was_finished
    assert codes(tmp_path) == expected


def test_stream_of_a_suspect_is_whole(tmp_path: Path) -> None:
    """The events of a request that was computed apart are those of any other."""
    lines = [{"prompt": "raise now"}, {"prompt": "a", "stream": True}]
    write_input(tmp_path / "in.jsonl", lines)

    run(tmp_path)

    events = (tmp_path / "out.jsonl.stream/000002.sse").read_text().split("\n\n")
    assert json.loads(events[0].removeprefix("data: "))["choices"][0]["text"] == "[a]"
    assert events[1:] == ["data: [DONE]", ""]


def test_model_without_numbers_stops_the_job(tmp_path: Path) -> None:
    """Eight results without a usable number are the model's fault, and none of them is kept."""
    write_input(tmp_path / "in.jsonl", requests([f"fail {i}" for i in range(9)]))

    with pytest.raises(ModelError, match="NaN"):
        run(tmp_path)
    assert not (tmp_path / "out.jsonl").exists()

    write_input(tmp_path / "in.jsonl", requests(["good", *(f"fail {i}" for i in range(9))]))
    assert run(tmp_path).report.requests.failed == 9


def test_requests_under_way_outlive_the_process(tmp_path: Path) -> None:
    """Keys are found after a death, and not after an orderly end."""
    keys = [f"{number:032x}" for number in range(3)]
    dead = InFlight(tmp_path / "in-flight")
    for key in keys:
        dead.begin(key)
    os.close(dead._descriptor)

    with InFlight(tmp_path / "in-flight") as in_flight:
        assert in_flight.left_behind() == keys

    assert (tmp_path / "in-flight").read_bytes() == b""


class Warned(Progress):
    """Remembers what it is warned of."""

    def __init__(self, warnings: list[str]) -> None:
        self._warnings = warnings

    def warn(self, message: str) -> None:
        """Remember it."""
        self._warnings.append(message)


class Interrupted(FakeBackend):
    """A backend that is stopped when it opens a model; its notes of what is under way stay."""

    def resolve(self, name: str | None, _began: str = "") -> ModelIdentity:  # noqa: ARG002 - the fake's signature
        """Stop the process hard, as far as the job can see."""
        raise KeyboardInterrupt


def _keys(folder: Path) -> list[str]:
    parser = Parser({}, Limits())
    lines = (folder / "in.jsonl").read_bytes().splitlines()
    return [parser.parse(i, line).key for i, line in enumerate(lines, 1)]  # type: ignore[union-attr]
