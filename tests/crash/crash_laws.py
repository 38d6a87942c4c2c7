"""What must hold of a job after every death and at its end, beside an uninterrupted one."""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from crash_job import CrashJob

REPORT_PARTS = (
    "requests",
    "usage",
    "finish_reasons",
    "by_model",
    "by_user",
    "completion_tokens",
)
"""What a report counts; the rest is time."""


@dataclass(frozen=True)
class Reference:
    """A job that nobody stopped."""

    seconds: float
    num_results: int
    output: bytes
    streams: dict[str, bytes]
    report: dict[str, object]
    names: set[str]


def run_reference(job: CrashJob) -> Reference:
    """Run a job to its end."""
    started = time.monotonic()
    assert job.run() == 0, job.messages.read_text()
    seconds = time.monotonic() - started
    return Reference(
        seconds=seconds,
        num_results=len(job.taken()),
        output=job.output.read_bytes(),
        streams=job.streams(),
        report=report_of(job),
        names=job.names(),
    )


def report_of(job: CrashJob) -> dict[str, object]:
    """Read what a job's report counts."""
    report = json.loads(job.output.with_name("out.jsonl.usage.json").read_bytes())
    return {part: report[part] for part in REPORT_PARTS}


@dataclass
class Watch:
    """Holds one job to its laws from run to run."""

    job: CrashJob
    reference: Reference
    old: bytes | None = None
    """What the output was before the first run; None if it was not there."""
    recorded: set[str] = field(default_factory=set)
    is_published: bool = False

    def check_death(self, log_start: int) -> None:
        """Hold a run that was stopped to the laws; its notes begin at log_start."""
        self._check_taken(log_start)
        output = _content(self.job.output)
        if output == self.reference.output != self.old:
            self.is_published = True
        assert output == (self.reference.output if self.is_published else self.old)
        recorded = self.job.recorded()
        # Once published, the results may be dropped: nothing is asked for again, see above.
        assert self.is_published or self.recorded <= recorded, self.recorded - recorded
        self.recorded |= recorded

    def check_end(self, log_start: int) -> None:
        """Hold a run that ended well to the laws, and a further one to doing nothing."""
        self._check_taken(log_start)
        self._check_files()
        end = self.job.log_size()
        assert self.job.run() == 0, self.job.messages.read_text()
        assert self.job.log_size() == end
        self._check_files()

    def _check_taken(self, log_start: int) -> None:
        taken = self.job.taken(log_start)
        assert len(taken) == len({*taken})
        assert self.recorded & {*taken} == set()
        assert not (self.is_published and taken)

    def _check_files(self) -> None:
        job, reference = self.job, self.reference
        assert job.output.read_bytes() == reference.output
        assert job.streams() == reference.streams
        assert report_of(job) == reference.report
        assert job.names() == reference.names


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
