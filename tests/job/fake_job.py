"""A job with the fake backend as a process of its own: fake_job.py INPUT OUTPUT PACE LOG."""

import sys
from pathlib import Path

from fakes import paced

from aobatch.cli.ending import interruptible, reported_failures
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job


def main(source: str, output: str, pace: str, log: str) -> None:
    """Run the job as the command does."""
    backend = paced(pace, log=Path(log))
    with reported_failures(), interruptible():
        run_job(JobConfig((Path(source),), Path(output)), backend)


if __name__ == "__main__":
    main(*sys.argv[1:])
