"""Laws of a job's memory: it does not grow with the number of lines."""

from pathlib import Path

import pytest
from job_files import measure
from many_lines import write_many_lines


@pytest.mark.parametrize("count", [5_000, pytest.param(30_000, marks=pytest.mark.long)])
def test_ten_times_the_lines_take_the_same_memory(tmp_path: Path, count: int) -> None:
    """Thousands of lines take at most 10 MB more than a tenth of them, of the same kinds."""
    few = write_many_lines(tmp_path / "few.jsonl", count // 10)
    many = write_many_lines(tmp_path / "many.jsonl", count)

    taken = measure(many, few)

    assert taken["total"] == count
    assert taken["by_code"] == dict.fromkeys(
        ("invalid_json_line", "numerical_error", "model_not_found"), count // 20
    )
    assert taken["growth"] <= 10e6
    assert len((tmp_path / "many.out.jsonl").read_bytes().splitlines()) == count
