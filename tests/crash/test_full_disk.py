"""Laws of full disks: one sentence, an exit code, and a state from which more room goes on."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, Watch, run_reference
from request_mix import mixed_lines
from small_rooms import small_room

from aobatch.models.store.folder import ModelFolder

NAMES = {
    "out.jsonl.aobatch/lock": "lock",
    "stdin.jsonl": "spool",
    "ledger.sqlite3": "ledger",
    "in-flight": "in flight",
    "out.jsonl.stream": "stream",
    "out.jsonl.usage.json": "report",
    "done.json": "marker",
    "out.jsonl ": "output",
    "out.jsonl.aobatch": "state folder",
}
"""How a message names what could not be written, the more special names first."""


def file_at_fault(watch: Watch, code: int) -> str:
    """Hold a run that had no room to the laws; tell by its one sentence what it could not write."""
    said = watch.job.messages.read_text()
    errors = [line for line in said.splitlines() if line.startswith("aobatch: ")]
    assert code in {73, 74}, f"exit code {code}: {said}"
    assert len(errors) == 1, said
    assert errors[0].startswith(f"aobatch: error: {watch.job.folder}/out.jsonl"), said
    assert "Traceback" not in said, said
    watch.check_death(0)
    return next(NAMES[name] for name in NAMES if name in errors[0])


def run_short_of_room(
    job: CrashJob, reference: Reference, limit: int | None, widen: Callable[[], None]
) -> str:
    """Run a job where it has too little room, and again where it has enough."""
    watch, fault = Watch(job, reference), "nothing"
    if code := replace(job, limit=limit).run():
        fault = file_at_fault(watch, code)
        widen()
        start = job.log_size()
        assert job.run() == 0, job.messages.read_text()
        watch.check_end(start)
    assert job.output.read_bytes() == reference.output
    return fault


def run_on_small_disks(
    folder: Path, lines: bytes, backend: str, options: tuple[str, ...], num_sizes: int
) -> Counter[str]:
    """Run a job on disks of so many sizes, from 4 KiB to 2 MiB, which are enough."""
    source = folder / "source.jsonl"
    source.write_bytes(lines)
    reference_job = CrashJob(folder / "reference", backend, options)
    reference_job.folder.mkdir()
    reference_job.source.symlink_to(source)
    reference = run_reference(reference_job)
    faults: Counter[str] = Counter()
    for number in range(num_sizes):
        num_bytes = int(4096 * 512 ** (number / (num_sizes - 1)))
        with small_room(folder / str(number), num_bytes) as room:
            job = CrashJob(room.folder, backend, options)
            job.source.symlink_to(source)
            faults[run_short_of_room(job, reference, room.limit, room.widen)] += 1
    return faults


@pytest.mark.parametrize(
    "num_sizes", [pytest.param(5, id="short"), pytest.param(24, id="long", marks=pytest.mark.long)]
)
def test_disks_of_all_sizes(memory: Path, tell: Callable[[str], None], num_sizes: int) -> None:
    """Wherever a disk becomes full, the run says so, and goes on where there is room."""
    faults = run_on_small_disks(memory, mixed_lines(300, 8), "0", (), num_sizes)

    tell(f"full disks: {num_sizes} sizes, first short of room: {dict(faults)}; all resumed")
    assert 0 < faults["nothing"] < num_sizes / 2


@pytest.mark.parametrize(
    "num_sizes", [pytest.param(3, id="short"), pytest.param(10, id="long", marks=pytest.mark.long)]
)
def test_disks_of_some_sizes_with_a_model(
    tmp_path: Path, tiny_int8: ModelFolder, tell: Callable[[str], None], num_sizes: int
) -> None:
    """The command with a model meets full disks as the one without does."""
    options = ("--model", str(tiny_int8.path))

    faults = run_on_small_disks(tmp_path, mixed_lines(20, 8, 10), "local", options, num_sizes)

    tell(f"full disks with a model: {num_sizes} sizes, first short: {dict(faults)}; all resumed")
    assert 0 < faults["nothing"] < num_sizes


SHAPES: dict[str, list[object]] = {
    "lock": [],
    "spool": [{"prompt": 1.5, "user": "u" * 500} for _ in range(700)],
    "output": [{"prompt": 1.5, "custom_id": "\a" * 200 + str(i)} for i in range(300)],
    "ledger": [{"prompt": f"long {i} " * 600} for i in range(100)],
    "report": [{"prompt": "a", "model": "gone", "user": "\a" * 200 + str(i)} for i in range(300)],
    "stream": [{"prompt": "streamed " * 40000, "stream": True}],
}
"""Jobs of which another file each is the first to become larger than 256 KiB, or than nothing.

The control character is one byte in the ledger, and six in JSON.
"""


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param((262144,), id="short"),
        pytest.param(
            (512, 4096, 8192, 16384, 32768, 49152, 65536, 98304, 131072, 262144, 524288),
            id="long",
            marks=pytest.mark.long,
        ),
    ],
)
def test_limits_on_files(
    memory: Path, shape: str, tell: Callable[[str], None], sizes: tuple[int, ...]
) -> None:
    """Whichever file may not grow further, the run says so, and goes on without the limit."""
    source = memory / "source.jsonl"
    source.write_text("".join(f"{json.dumps(line)}\n" for line in SHAPES[shape]))
    reference = run_reference(_limited_job(memory / "reference", source, shape))
    faults: Counter[str] = Counter()
    for num_bytes in (0,) if shape == "lock" else sizes:
        job = _limited_job(memory / str(num_bytes), source, shape)
        faults[run_short_of_room(job, reference, num_bytes, lambda: None)] += 1

    tell(f"limits on files, {shape}: {dict(faults)}; all resumed")
    assert faults[shape] > 0


def _limited_job(folder: Path, source: Path, shape: str) -> CrashJob:
    folder.mkdir()
    # The limit would hold for the notes as well.
    job = CrashJob(folder, "0", is_noted=False, is_piped=shape == "spool")
    job.source.symlink_to(source)
    return job
