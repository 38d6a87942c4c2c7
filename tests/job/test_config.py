"""Laws of job settings."""

from pathlib import Path

import pytest

from aobatch.errors import UsageError
from aobatch.job.config import default_output, parse_allowance


@pytest.mark.parametrize(
    ("source", "output"),
    [
        ("jobs/a.jsonl", "jobs/a.out.jsonl"),
        ("a.b.ndjson", "a.b.out.ndjson"),
        ("/x/a.jsonl.gz", "/x/a.out.jsonl.gz"),
        ("-", "-"),
    ],
)
def test_default_output_stands_beside_its_input(source: str, output: str) -> None:
    """The output keeps folder, format and compression of the input."""
    assert default_output(Path(source)) == Path(output)


@pytest.mark.parametrize(
    ("text", "num_failed", "is_allowed"),
    [
        ("0", 0, True),
        ("0", 1, False),
        ("3", 3, True),
        ("3", 4, False),
        ("2.5%", 5, True),
        ("2.5%", 6, False),
    ],
)
def test_allowance_bounds_failures(text: str, num_failed: int, is_allowed: bool) -> None:
    """A number or a percentage of 200 lines may fail, and not one more."""
    assert parse_allowance(text).allows(num_failed, 200) is is_allowed


@pytest.mark.parametrize("text", ["", "-1", "x", "1.5", "101%", "-1%", "nan%", "%"])
def test_wrong_allowance_is_refused(text: str) -> None:
    """Anything but a number of lines or a percentage is an error of usage."""
    with pytest.raises(UsageError, match=r"--max-failures .* is not a number of lines"):
        parse_allowance(text)
