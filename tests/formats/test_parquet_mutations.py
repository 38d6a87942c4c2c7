"""Laws of Parquet inputs under damage: a file reads or is refused; nothing hangs or crashes."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("mutate_parquet.py")
COUNT = 500
NEEDED = 25
"""How many files have to be refused, and to be read, for the damage to be worth its name."""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
@pytest.mark.parametrize(
    "first",
    [
        *range(0, 4 * COUNT, COUNT),
        *(pytest.param(n, marks=pytest.mark.long) for n in range(4 * COUNT, 60 * COUNT, COUNT)),
    ],
)
def test_damaged_files_read_or_are_refused(first: int, tmp_path: Path) -> None:
    """Of 500 damaged files, under limits of time and memory, none ends the process.

    What the process said last names the seed of the file that did. A file that reads has a request
    or an error for each of its rows, in their order.
    """
    command = [sys.executable, "-W", "error", str(SCRIPT), str(tmp_path), str(first), str(COUNT)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    *seeds, outcomes = ended.stdout.splitlines() or [""]

    assert (ended.returncode, ended.stderr) == (0, ""), f"after {ended.stdout[-40:]!r}"
    assert len(seeds) == COUNT
    counts = {name: int(count) for name, count in (pair.split("=") for pair in outcomes.split())}
    assert sorted(counts) == ["InputError", "read"]
    assert min(counts.values()) >= NEEDED
    assert sum(counts.values()) == COUNT
