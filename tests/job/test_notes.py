"""Laws of what a report says of the workers that computed it."""

import pytest
from msgspec.structs import replace
from report_files import full_report

from aobatch.job.report.page import report_page
from aobatch.job.report.text import report_markdown, report_table
from aobatch.job.report.usage import UsageReport

COUNTED = {
    "worker_0_sampled_tokens": 3_000,
    "worker_0_seconds": 2.5,
    "worker_1_sampled_tokens": 1_000,
    "worker_1_seconds": 2.0,
    "worker_2_sampled_tokens": 0,
    "worker_2_seconds": 0.0,
    "workers_started": 3,
}


def report_of(**statistics: float) -> UsageReport:
    """Give a report whose statistics are these beside the usual ones."""
    report = full_report()
    return replace(report, statistics={**report.statistics, **statistics})


def test_the_rate_of_workers_stands_in_every_form() -> None:
    """Tokens over seconds of each; one that did nothing yet has no rate."""
    report = report_of(**COUNTED)

    assert "workers                  2, 500 to 1,200 new tokens a second each" in report_table(
        report
    )
    assert "2, 500 to 1,200 new tokens a second each" in report_markdown(report, "out.jsonl")
    page = report_page(report, "out.jsonl").decode()
    assert "<dt>worker 0</dt><dd>1,200 tokens/s</dd>" in page
    assert "<dt>worker 1</dt><dd>500 tokens/s</dd>" in page


@pytest.mark.parametrize(
    ("seconds", "expected"), [(2.5, "1, 1,200 new tokens a second"), (0.0, None)]
)
def test_a_lone_worker_has_one_rate(seconds: float, expected: str | None) -> None:
    """Its rate is not said twice; a job without workers says nothing of any."""
    text = report_table(report_of(worker_0_sampled_tokens=3_000, worker_0_seconds=seconds))

    rows = [line.split(None, 1)[1] for line in text.splitlines() if line.startswith("workers")]
    assert rows == ([expected] if expected else [])
