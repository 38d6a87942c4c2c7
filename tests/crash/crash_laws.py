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
        expected = self.reference.output if self.is_published else self.old
        self._demand(output == expected, "the output is neither the old nor the whole new one")
        recorded = self.job.recorded()
        # Once published, the results may be dropped: nothing is asked for again, see above.
        lost = set() if self.is_published else self.recorded - recorded
        self._demand(not lost, f"results are lost: {lost}")
        self.recorded |= recorded

    def check_end(self, log_start: int) -> None:
        """Hold a run that ended well to the laws, and a further one to doing nothing."""
        self._check_taken(log_start)
        self._check_files()
        end = self.job.log_size()
        assert self.job.run() == 0, self.job.messages.read_text()
        self._demand(self.job.log_size() == end, "a finished job computes")
        self._check_files()

    def _check_taken(self, log_start: int) -> None:
        taken = self.job.taken(log_start)
        self._demand(len(taken) == len({*taken}), "requests are computed twice in one run")
        again = self.recorded & {*taken}
        self._demand(not again, f"recorded requests are computed again: {again}")
        self._demand(not (self.is_published and taken), "a published job computes")

    def _check_files(self) -> None:
        job, reference = self.job, self.reference
        self._demand(job.output.read_bytes() == reference.output, "the output differs")
        self._demand(job.streams() == reference.streams, "the event files differ")
        self._demand(report_of(job) == reference.report, "the report counts differently")
        odd = job.names() ^ reference.names
        self._demand(not odd, f"there are other files: {odd}")

    def _demand(self, is_right: bool, otherwise: str) -> None:
        assert is_right, f"{otherwise}, see {self.job.folder}"


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None
