"""Laws of signals at any instant: the command dies by them, soon, and its next run goes on."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, Watch, run_reference
from request_mix import mixed_lines
from waiting import HANG_SECONDS, children_seconds, processor_seconds, wait_until

from aobatch.models.store.folder import ModelFolder

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
LINES = mixed_lines(30, 60)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_int8: ModelFolder) -> Reference:
    """Run the job that the tests stop to its end."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job", tiny_int8))


def new_job(folder: Path, model: ModelFolder) -> CrashJob:
    """Give a job of the real command that lasts about a second."""
    folder.mkdir()
    job = CrashJob(folder, "real", ("--model", str(model.path)))
    job.source.write_bytes(LINES)
    return job


def stop(job: CrashJob, reference: Reference, draw: random.Random) -> tuple[float, str]:
    """Stop a run at any instant; give what dying took of processors, and what it said last.

    Both hold nothing if the run ended before.
    """
    process = job.start()
    with suppress(subprocess.TimeoutExpired):
        process.wait(draw.uniform(0, reference.seconds))
    number = draw.choice(SIGNALS)
    before = children_seconds()
    if process.poll() is None:
        before += processor_seconds(process.pid)
    process.send_signal(number)
    code = process.wait(HANG_SECONDS)
    seconds = children_seconds() - before
    said = job.messages.read_text()
    # The interpreter itself can be met before any line of the command is executed.
    is_ours = "Traceback" not in said or "aobatch/cli" in said or number != signal.SIGINT
    if not is_ours:
        return seconds, "interpreter"
    assert code in {0, -number}, f"exit code {code} after {number.name}: {said}"
    assert "Traceback" not in said, said
    assert "internal error" not in said, said
    reason = f"aobatch: stopped by {number.name}; what is done is kept, run again"
    assert said.count("aobatch: stopped") == said.splitlines()[-1:].count(reason), said
    return (seconds, number.name if reason in said else "silent") if code else (0.0, "ended")


@pytest.mark.parametrize(
    "num_stops",
    [pytest.param(5, id="short"), pytest.param(100, id="long", marks=pytest.mark.long)],
)
def test_stopped_command_dies_soon_and_goes_on(
    tmp_path: Path,
    tiny_int8: ModelFolder,
    reference: Reference,
    tell: Callable[[str], None],
    num_stops: int,
) -> None:
    """Each run dies by the signal with one sentence, soon, and the last one has all bytes.

    Soon is 5 s of processor time, of which there may be as many as threads; 2 s for nearly all.
    """
    draw, seen, latencies = random.Random(num_stops), Counter[str](), list[float]()
    while len(latencies) < num_stops:
        watch = Watch(new_job(tmp_path / str(seen["ended"]), tiny_int8), reference)
        said = ""
        while said != "ended":
            seconds, said = stop(watch.job, reference, draw)
            seen[said] += 1
            if said != "ended":
                watch.check_death(0)
                latencies.append(seconds)
        watch.check_end(0)

    ordered = sorted(latencies)
    p50, p99 = (ordered[int(part * (len(ordered) - 1))] for part in (0.5, 0.99))
    times = f"p50 {p50:.3f} s, p99 {p99:.3f} s, max {ordered[-1]:.3f} s"
    tell(f"signals: {len(ordered)} stops ({dict(seen)}), dead after {times}; nothing lost")
    assert ordered[-1] <= 5
    assert p99 <= 2


def test_second_signal_kills_at_once(
    tmp_path: Path, tiny_int8: ModelFolder, reference: Reference
) -> None:
    """Two signals on each other's heels are obeyed, and nothing is lost."""
    draw, watch = random.Random(2), Watch(new_job(tmp_path / "job", tiny_int8), reference)
    for first, second in [(signal.SIGTERM, signal.SIGINT), (signal.SIGINT, signal.SIGTERM)]:
        with watch.job.start() as process:
            wait_until(lambda: "lines" in watch.job.messages.read_text())
            time.sleep(draw.uniform(0, 0.2))
            process.send_signal(first)
            time.sleep(draw.uniform(0, 0.02))
            process.send_signal(second)
            # It may have ended before, on a machine that was slow to send them.
            assert process.wait(HANG_SECONDS) in {0, -first, -second}
        assert "Traceback" not in watch.job.messages.read_text()
        watch.check_death(0)

    assert watch.job.run() == 0
    watch.check_end(0)
