"""Laws of a job of a million lines, which takes minutes: `pytest -m long tests/long`."""

from pathlib import Path

import pytest
from job_files import measure
from many_lines import write_many_lines

NUM_LINES = 1_000_000


@pytest.mark.long
def test_a_million_lines_take_250_megabytes(tmp_path: Path) -> None:
    """A million lines of all kinds take at most 250 MB more than 3,000 of them."""
    few = write_many_lines(tmp_path / "few.jsonl", 3_000)
    many = write_many_lines(tmp_path / "many.jsonl", NUM_LINES)

    taken = measure(many, few)

    assert taken["total"] == NUM_LINES
    assert sum(taken["by_code"].values()) == 3 * NUM_LINES // 20
    assert taken["growth"] <= 250e6, taken
    with (tmp_path / "many.out.jsonl").open("rb") as stream:
        assert sum(1 for _ in stream) == NUM_LINES
