"""Laws of how often a job opens its inputs."""

import ctypes
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import PROMPTS, requests, run, write_input

from aobatch.job.config import JobConfig, Selection, Shard
from aobatch.job.runner import run_job

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs inotify")

IN_CLOSE_NOWRITE, IN_OPEN = 0x10, 0x20


def opens_of(path: Path, work: Callable[[], object]) -> int:
    """Count how often a file is opened, by whatever library, while something is done."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK)
    # Closing is watched so that two openings are not joined to one event.
    assert libc.inotify_add_watch(descriptor, os.fsencode(path), IN_OPEN | IN_CLOSE_NOWRITE) > 0
    try:
        work()
        events = os.read(descriptor, 2**16)
    finally:
        os.close(descriptor)
    masks = [
        int.from_bytes(events[at + 4 : at + 8], sys.byteorder) for at in range(0, len(events), 16)
    ]
    return sum(mask & IN_OPEN > 0 for mask in masks)


@pytest.mark.parametrize(
    "selection",
    [Selection(), Selection(limit=3), Selection(sample=4), Selection(shard=Shard(1, 2))],
    ids=["all", "limit", "sample", "shard"],
)
def test_lines_are_opened_four_times(tmp_path: Path, selection: Selection) -> None:
    """For a look at their start, their digest, to be counted and computed; not to be published."""
    path = write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])

    assert opens_of(path, lambda: run(tmp_path, selection=selection)) == 4
    assert opens_of(path, lambda: run(tmp_path, selection=selection)) == 2


def test_tables_are_opened_three_times(tmp_path: Path) -> None:
    """The footer, which says how many rows there are, is read to check the columns."""
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table({"prompt": PROMPTS}), path)
    config = JobConfig((path,), tmp_path / "out.parquet")

    assert opens_of(path, lambda: run_job(config, FakeBackend())) == 3


def test_more_models_read_the_lines_again(tmp_path: Path) -> None:
    """Each further model opens the input once more."""
    lines = requests(PROMPTS) + requests(PROMPTS, model="other")
    path = write_input(tmp_path / "in.jsonl", lines)

    assert opens_of(path, lambda: run(tmp_path)) == 5
