"""Jobs that are killed again and again, at instants over all phases, until they are done."""

import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from crash_job import CrashJob
from crash_laws import Watch
from waiting import HANG_SECONDS

POLL_SECONDS = 0.001


class Attempt:
    """One run that is to be killed."""

    def __init__(self, watch: Watch, draw: random.Random) -> None:
        self.job = watch.job
        self.draw = draw
        self._share_left = 1 - len(watch.recorded) / watch.reference.num_results
        self._seconds = watch.reference.seconds
        self.log_start = self.job.log_size()
        self._before = _identities(self.job)
        self.process = self.job.start()

    def wait_any_time(self) -> None:
        """Wait for a random part of what a run lasts."""
        self._wait((0.4 + 0.6 * self._share_left) * self._seconds)

    def wait_for_end(self) -> None:
        """Let the run be."""
        self.process.wait(HANG_SECONDS)

    def wait_in_decode(self) -> None:
        """Wait for the first request to be taken, and then for a random part of the decoding."""
        self._poll(lambda: self.job.log_size() > self.log_start + len("open\n"))
        self._wait(0.5 * self._share_left * self._seconds)

    def wait_for_commit(self) -> None:
        """Wait for the ledger to be written, once or a few times."""
        path = self.job.state / "ledger.sqlite3-wal"
        for _ in range(self.draw.randint(1, 8)):
            before = _identity(path)
            self._poll(lambda before=before: _identity(path) != before)

    def wait_for_publishing(self) -> None:
        """Wait for the file that is going to be the output, and a moment more."""
        self._poll(lambda: _identities(self.job) != self._before)
        time.sleep(self.draw.uniform(0, 0.02))

    def choose_plan(self) -> Callable[[], None]:
        """Choose how the instant of the kill is found."""
        any_time, publishing = self.wait_any_time, self.wait_for_publishing
        if self._share_left == 0:
            return self.draw.choice([any_time, publishing, self.wait_for_end])
        decoding = [self.wait_in_decode] * 3 + [self.wait_for_commit] * 2
        return self.draw.choice([any_time, *decoding, publishing])

    def kill(self) -> int:
        """Kill the run; give its exit code, which is 0 if it had ended."""
        self.process.kill()
        code = self.process.wait(HANG_SECONDS)
        said = self.job.messages.read_text()
        assert code in {0, -signal.SIGKILL}, f"exit code {code}: {said}"
        # A process that the killed one was just starting may complain that its parent has gone.
        assert code != 0 or "Traceback" not in said, said
        return code

    def phase(self) -> str:
        """Say by its traces how far the run was when it died."""
        notes = self.job.log_lines(self.log_start)
        if "close" in notes or _identities(self.job) != self._before:
            return "publish"
        if "open" not in notes:
            return "start-up"
        return "load" if len(notes) == 1 else "decode"

    def _wait(self, seconds: float) -> None:
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(self.draw.uniform(0, seconds))

    def _poll(self, has_come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + HANG_SECONDS
        while not has_come() and self.process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(POLL_SECONDS)


def kill_until_done(watch: Watch, draw: random.Random, most: int) -> Counter[str]:
    """Kill the runs of a job, at most so many, until one ends; count the kills by phase."""
    if watch.old is not None:
        watch.job.output.write_bytes(watch.old)
    kills: Counter[str] = Counter()
    while True:
        attempt = Attempt(watch, draw)
        attempt.choose_plan()() if kills.total() < most else attempt.wait_for_end()
        if attempt.kill() == 0:
            watch.check_end(attempt.log_start)
            return kills
        watch.check_death(attempt.log_start)
        kills[attempt.phase()] += 1


def _identities(job: CrashJob) -> list[tuple[int, ...] | None]:
    """Tell the files that publishing writes from those of another run."""
    names = (".out.jsonl.aobatch.tmp", "out.jsonl", "out.jsonl.usage.json")
    paths = [job.folder / name for name in names]
    return [_identity(path) for path in (*paths, job.state / "done.json")]


def _identity(path: Path) -> tuple[int, ...] | None:
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
