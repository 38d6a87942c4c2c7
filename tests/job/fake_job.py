"""A job with the fake backend as a process of its own: fake_job.py INPUT OUTPUT DELAY LOG."""

import sys
from pathlib import Path

from fakes import FakeBackend

from aobatch.cli.ending import interruptible, reported_failures
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job


def main(source: str, output: str, delay: str, log: str) -> None:
    """Run the job as the command does."""
    backend = FakeBackend(delay=float(delay), log=Path(log))
    with reported_failures(), interruptible():
        run_job(JobConfig((Path(source),), Path(output)), backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
