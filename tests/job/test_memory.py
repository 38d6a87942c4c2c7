"""Laws of a job's memory: it does not grow with the number of lines."""

from pathlib import Path

from job_files import measure
from many_lines import write_many_lines


def test_ten_times_the_lines_take_the_same_memory(tmp_path: Path) -> None:
    """5,000 lines take at most 10 MB more than 500 lines of the same kinds."""
    few = write_many_lines(tmp_path / "few.jsonl", 500)
    many = write_many_lines(tmp_path / "many.jsonl", 5_000)

    taken = measure(many, few)

    assert taken["total"] == 5_000
    assert taken["by_code"] == dict.fromkeys(
        ("invalid_json_line", "numerical_error", "model_not_found"), 250
    )
    assert taken["growth"] <= 10e6
    assert len((tmp_path / "many.out.jsonl").read_bytes().splitlines()) == 5_000
