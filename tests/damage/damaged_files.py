"""Files damaged by the thousand, each read in a process of little memory and time."""

import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

SECONDS = 2
"""Whoever takes more processor time for a file is taken for hung."""
MEMORY = 512 * 2**20
COUNT = 500
"""Files that a process tries."""
NEEDED = 25
"""How many files have to be refused, and to be read, for the damage to be worth its name."""


def try_seeds(first: int, count: int, attempt: Callable[[int], str]) -> None:
    """Report each seed before it is tried, and in the end how often there was which outcome.

    The signal of the timer ends the process at a file that takes too long.
    """
    _limit()
    outcomes = Counter[str]()
    for seed in range(first, first + count):
        sys.stdout.write(f"seed {seed}\n")
        sys.stdout.flush()
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcomes[attempt(seed)] += 1
        signal.setitimer(signal.ITIMER_PROF, 0)
    sys.stdout.write(" ".join(f"{name}={number}" for name, number in sorted(outcomes.items())))


def check_outcomes(script: Path, folder: Path, first: int, refusal: str) -> None:
    """Let a script try 500 seeds: none ends the process, and each file is read or refused.

    What the process said last names the seed of the file that did end it.
    """
    command = [sys.executable, "-W", "error", str(script), str(folder), str(first), str(COUNT)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    *seeds, outcomes = ended.stdout.splitlines() or [""]

    assert (ended.returncode, ended.stderr) == (0, ""), f"after {ended.stdout[-40:]!r}"
    assert len(seeds) == COUNT
    counts = {name: int(count) for name, count in (pair.split("=") for pair in outcomes.split())}
    assert sorted(counts) == [refusal, "read"]
    assert min(counts.values()) >= NEEDED
    assert sum(counts.values()) == COUNT


def _limit() -> None:
    """Let the process have little more memory than it has now, and a minute of processor time."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
