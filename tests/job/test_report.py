"""Laws of the usage report as it is added up, and of its table."""

from dataclasses import replace

import pytest
from report_files import FACTS, table_of

from aobatch.engine.config import EngineStatistics
from aobatch.executors import Statistics, WorkerStatistics
from aobatch.job.report.page import report_page
from aobatch.job.report.text import report_markdown
from aobatch.job.report.usage import UsageReport, UsageTally


def report_of(statistics: Statistics) -> UsageReport:
    """Give the report of three answers and two failures."""
    tally = UsageTally()
    tally.add_completion("a", "ada", ["stop"], (10, 1, 0.5, 0.0))
    tally.add_completion("a", None, ["stop"], (20, 2, 1.5, 0.0))
    tally.add_completion("b", "ada", ["stop"], (1000, 3000, 2.5, 0.0))
    tally.add_failure("invalid_type", None, None)
    tally.add_failure("model_not_found", "c\x1b[2J", "ada")
    return tally.report(statistics, FACTS)


@pytest.mark.parametrize("grouping", ["by_model", "by_user"])
def test_groups_add_up_to_the_whole(grouping: str) -> None:
    """Every line is in one group by model and in one by user."""
    report = report_of(Statistics())
    groups = getattr(report, grouping)

    assert sum(group.requests for group in groups) == report.requests.total == 5
    assert sum(group.failed for group in groups) == report.requests.failed == 2
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert sum(getattr(group, name) for group in groups) == getattr(report.usage, name)


def test_report_counts_reasons_and_codes() -> None:
    """Finish reasons count choices, codes count failed lines."""
    report = report_of(Statistics(wall_seconds=2.0))

    assert report.finish_reasons == {"stop": 3}
    assert report.requests.failed_by_code == {"invalid_type": 1, "model_not_found": 1}
    assert report.tokens_per_second == 3003 / 2


def test_number_and_length_of_names_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names beyond the first ones share a group, and the groups still add up to the whole."""
    monkeypatch.setattr("aobatch.job.report.usage.MAX_GROUPS", 3)
    tally = UsageTally()
    for index in range(10):
        tally.add_completion("a", f"user {index % 5}", ["stop"], (1, 2, 0.5, 0.0))
        tally.add_failure("model_not_found", f"{index}" * 600, None)

    report = tally.report(Statistics(), FACTS)

    users = [(group.name, group.requests) for group in report.by_user]
    assert users == [("user 0", 2), (None, 10), ("user 1", 2), ("(others)", 6)]
    assert [group.requests for group in report.by_model] == [10, 1, 1, 8]
    assert [group.name for group in report.by_model[1:3]] == ["0" * 511 + "…", "1" * 511 + "…"]
    assert sum(group.total_tokens for group in report.by_user) == report.usage.total_tokens == 30


COUNTED = Statistics(
    runs=2,
    wall_seconds=3.5,
    engine=EngineStatistics(prefix_tokens_shared=1200, busy_rows=45, busy_slots=60),
    workers={
        0: WorkerStatistics(3_000, 2.5),
        1: WorkerStatistics(1_000, 2.0),
        10: WorkerStatistics(0, 0.0),
    },
)


def test_statistics_are_read_as_they_were_written() -> None:
    """Their numbers give them again, and those of two add up part by part."""
    assert Statistics.of(COUNTED.numbers()) == COUNTED
    assert Statistics().numbers() == {}
    twice = COUNTED + COUNTED
    assert (twice.runs, twice.engine.busy_rows, twice.workers[0].seconds) == (4, 90, 5.0)
    assert twice.pool == COUNTED.pool


def test_table_is_aligned_and_harmless() -> None:
    """Columns end at the same place, and a model's name cannot steer the terminal."""
    table = table_of(report_of(Statistics(wall_seconds=2.0)))

    header, *rows = table.splitlines()[:6]
    assert {len(row) for row in rows} == {len(header)}
    assert rows[-1].split() == ["all", "5", "2", "1,030", "3,003", "4,033"]
    assert "\x1b" not in table
    assert "c\\u001b[2J" in table
    empty = table_of(UsageTally().report(Statistics(), FACTS))
    assert empty.splitlines()[1].split() == ["all", "0", "0", "0", "0", "0"]


def test_table_says_what_was_shared_and_how_full_the_slots_were() -> None:
    """Savings stand in the table where there are any, and nothing where there are none."""
    lines = [" ".join(line.split()) for line in table_of(report_of(COUNTED)).splitlines()]

    assert "shared 1,200 prompt tokens of common beginnings" in lines
    assert "slots in use 75.0% while requests waited" in lines
    assert "shared" not in table_of(report_of(Statistics()))


def test_the_rate_of_workers_stands_in_every_form() -> None:
    """Tokens over seconds of each; one that did nothing yet has no rate."""
    report = report_of(COUNTED)

    assert "workers                  2, 500 to 1,200 new tokens a second each" in table_of(report)
    assert "2, 500 to 1,200 new tokens a second each" in report_markdown(report, "out.jsonl")
    page = report_page(report, "out.jsonl").decode()
    assert "<dt>worker 0</dt><dd>1,200 tokens/s</dd>" in page
    assert "<dt>worker 1</dt><dd>500 tokens/s</dd>" in page


@pytest.mark.parametrize(
    ("seconds", "expected"), [(2.5, "1, 1,200 new tokens a second"), (0.0, None)]
)
def test_a_lone_worker_has_one_rate(seconds: float, expected: str | None) -> None:
    """Its rate is not said twice; a job without workers says nothing of any."""
    text = table_of(report_of(replace(COUNTED, workers={0: WorkerStatistics(3_000, seconds)})))

    rows = [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("workers")]
    assert rows == ([expected] if expected else [])
