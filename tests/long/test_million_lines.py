"""Laws of jobs of a million lines, which take minutes: `pytest -m long tests/long`."""

import csv
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


@pytest.mark.long
def test_a_million_rows_of_csv_take_250_megabytes(tmp_path: Path) -> None:
    """A million rows with quoted line breaks, of CSV into CSV, take no more than lines do."""
    few = write_rows(tmp_path / "few.csv", 3_000)
    many = write_rows(tmp_path / "many.csv", NUM_LINES)

    taken = measure(many, few)

    assert taken["total"] == NUM_LINES
    assert taken["growth"] <= 250e6, taken
    with (tmp_path / "many.out.csv").open(newline="", encoding="utf-8") as stream:
        assert sum(1 for _ in csv.reader(stream)) == NUM_LINES + 1


def write_rows(path: Path, number: int) -> Path:
    """Write so many requests as rows, each with a line break."""
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["custom_id", "prompt", "max_tokens"])
        writer.writerows([i, f'Place {i}, the "best"\nof all', 16] for i in range(number))
    return path
