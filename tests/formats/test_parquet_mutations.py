"""Laws of Parquet inputs under damage: a file reads or is refused; nothing hangs or crashes."""

import sys
from pathlib import Path

import pytest
from damaged_files import COUNT, check_outcomes

SCRIPT = Path(__file__).with_name("mutate_parquet.py")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the address space")
@pytest.mark.parametrize(
    "first",
    [
        0,
        *(pytest.param(n, marks=pytest.mark.long) for n in range(COUNT, 60 * COUNT, COUNT)),
    ],
)
def test_damaged_files_read_or_are_refused(first: int, tmp_path: Path) -> None:
    """Of 500 damaged files, under limits of time and memory, none ends the process.

    A file that reads has a request or an error for each of its rows, in their order.
    """
    check_outcomes(SCRIPT, tmp_path, first, "InputError")
