"""A job as a process of its own that says what it took: memory_job.py WARM_UP INPUT...

A small job comes first, so that what is measured is not what every job loads. For each input
its counts are printed as JSON, with what the largest resident set had grown by since the small one.
"""

import json
import resource
import sys
import time
from pathlib import Path

from fakes import FakeBackend

from aobatch.job.config import JobConfig, default_output
from aobatch.job.runner import run_job

STATUS = Path("/proc/self/status")


class FastBackend(FakeBackend):
    """The fake backend, which keeps no list of what it computed."""

    def __init__(self) -> None:
        super().__init__()
        self.computed = _Nothing()


class _Nothing(list[str]):
    def append(self, _: str) -> None:
        """Forget."""


def peak_bytes() -> int:
    """Give the largest resident set so far."""
    if STATUS.exists():
        # The kernel's ru_maxrss counts what the process was before exec, which is pytest.
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def run(source: Path) -> dict[str, object]:
    """Run a job with the fake backend."""
    output = default_output(source)
    counts = run_job(JobConfig((source,), output), FastBackend()).report.requests
    return {"total": counts.total, "by_code": counts.failed_by_code}


def main(warm_up: str, *sources: str) -> None:
    """Run all jobs and print what each had taken beyond the first."""
    run(Path(warm_up))
    before, taken = peak_bytes(), []
    for source in sources:
        started = time.perf_counter()
        counts = run(Path(source))
        seconds = time.perf_counter() - started
        taken.append({**counts, "growth": peak_bytes() - before, "seconds": seconds})
    sys.stdout.write(json.dumps(taken))


if __name__ == "__main__":
    main(*sys.argv[1:])
