"""Laws of the usage report."""

import numpy as np
import pytest
from report_files import FACTS

from aobatch.executors import Statistics
from aobatch.job.report.text import report_table
from aobatch.job.report.usage import UsageTally, percentiles


@pytest.fixture
def tally() -> UsageTally:
    """Give a tally of three answers and two failures."""
    tally = UsageTally()
    tally.add_completion("a", "ada", ["stop"], (10, 1, 0.5))
    tally.add_completion("a", None, ["stop"], (20, 2, 1.5))
    tally.add_completion("b", "ada", ["stop"], (1000, 3000, 2.5))
    tally.add_failure("invalid_type", None, None)
    tally.add_failure("model_not_found", "c\x1b[2J", "ada")
    return tally


@pytest.mark.parametrize("grouping", ["by_model", "by_user"])
def test_groups_add_up_to_the_whole(tally: UsageTally, grouping: str) -> None:
    """Every line is in one group by model and in one by user."""
    report = tally.report(Statistics(), FACTS)
    groups = getattr(report, grouping)

    assert sum(group.requests for group in groups) == report.requests.total == 5
    assert sum(group.failed for group in groups) == report.requests.failed == 2
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert sum(getattr(group, name) for group in groups) == getattr(report.usage, name)


def test_report_counts_reasons_and_codes(tally: UsageTally) -> None:
    """Finish reasons count choices, codes count failed lines."""
    report = tally.report(Statistics(wall_seconds=2.0), FACTS)

    assert report.finish_reasons == {"stop": 3}
    assert report.requests.failed_by_code == {"invalid_type": 1, "model_not_found": 1}
    assert report.tokens_per_second == 3003 / 2


@pytest.mark.parametrize("count", [1, 2, 3, 10, 99, 100, 101])
def test_percentiles_are_nearest_rank(count: int) -> None:
    """The percentiles are those of numpy's inverted distribution function."""
    values = [(7919 * i) % 1009 for i in range(count)]

    found = percentiles(values)

    expected = np.percentile(values, [50, 90, 99], method="inverted_cdf")
    assert [found.p50, found.p90, found.p99] == expected.tolist()


def test_percentiles_of_nothing_are_null() -> None:
    """A job without answers has no percentiles."""
    assert percentiles([]).p50 is None


def test_table_is_aligned_and_harmless(tally: UsageTally) -> None:
    """Columns end at the same place, and a model's name cannot steer the terminal."""
    table = report_table(tally.report(Statistics(wall_seconds=2.0), FACTS))

    header, *rows = table.splitlines()[:6]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[-1].split() == ["all", "5", "2", "1,030", "3,003", "4,033"]
    assert "\x1b" not in table
    assert "c\\u001b[2J" in table


def test_table_says_what_was_shared_and_how_full_the_slots_were(tally: UsageTally) -> None:
    """Savings stand in the table where there are any, and nothing where there are none."""
    counts = {"prefix_tokens_shared": 1200, "busy_rows": 45, "busy_slots": 60}
    lines = [
        " ".join(line.split())
        for line in report_table(tally.report(Statistics.of(counts), FACTS)).splitlines()
    ]

    assert "shared 1,200 prompt tokens of common beginnings" in lines
    assert "slots in use 75.0% while requests waited" in lines
    assert "shared" not in report_table(tally.report(Statistics(), FACTS))


def test_number_and_length_of_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names beyond the first ones share a group, and the groups still add up to the whole."""
    monkeypatch.setattr("aobatch.job.report.usage.MAX_GROUPS", 3)
    tally = UsageTally()
    for index in range(10):
        tally.add_completion("a", f"user {index % 5}", ["stop"], (1, 2, 0.5))
        tally.add_failure("model_not_found", f"{index}" * 600, None)

    report = tally.report(Statistics(), FACTS)

    users = [(group.name, group.requests) for group in report.by_user]
    assert users == [("user 0", 2), (None, 10), ("user 1", 2), ("(others)", 6)]
    assert [group.requests for group in report.by_model] == [10, 1, 1, 8]
    assert [group.name for group in report.by_model[1:3]] == ["0" * 511 + "…", "1" * 511 + "…"]
    assert sum(group.total_tokens for group in report.by_user) == report.usage.total_tokens == 30


def test_table_of_an_empty_job_has_no_percentiles() -> None:
    """A report without lines can be laid out."""
    table = report_table(UsageTally().report(Statistics(), FACTS))

    assert table.splitlines()[1].split() == ["all", "0", "0", "0", "0", "0"]
