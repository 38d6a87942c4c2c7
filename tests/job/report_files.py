"""A usage report with everything in it, for tests of its forms."""

from aobatch.executors import Statistics
from aobatch.job.report.text import report_lines
from aobatch.job.report.usage import (
    JobFacts,
    ModelFacts,
    ModelPrice,
    Point,
    Prices,
    UsageReport,
    UsageTally,
    timeline,
    with_cost,
)

FACTS = JobFacts("finished", 124, 1_700_000_000, "0.1.0", [], {})
HOSTILE = '<script>alert("1")</script>|`a`\n\x1b[2J\u202e@octocat'
STATISTICS = {
    "busy_rows": 9_001,
    "busy_slots": 12_345,
    "decode_seconds": 40.25,
    "lane_seconds": 77.5,
    "model_seconds": 1.75,
    "prefill_seconds": 21.125,
    "prefill_tokens": 8_888,
    "prefix_tokens_shared": 4_321,
    "requests_shared": 17,
    "run_seconds": 55.5,
    "runs": 2,
    "sample_seconds": 3.5,
    "wall_seconds": 61.25,
}


def table_of(report: UsageReport) -> str:
    """Give the table of a report as it is shown without colours."""
    return "\n".join(line for _, line in report_lines(report))


def full_report(name: str = HOSTILE) -> UsageReport:
    """Give a report with errors, users, a course of time over two runs, and a cost."""
    tally = UsageTally()
    for index in range(120):
        num_prompt, num_completion = 10 + index, 7 * index % 200
        reason = "stop" if index % 3 else "length"
        user = ("ada", name, None)[index % 3]
        tally.add_completion("small", user, [reason], (num_prompt, num_completion, index / 7, 0.0))
    for _ in range(3):
        tally.add_failure("invalid_type", None, None)
    tally.add_failure("model_not_found", name, name)
    points = [
        Point(1 + t // 40, t / 2, 2 * t, 90 * t, 150 * t, 400 * t, 500 * t) for t in range(61)
    ]
    models = [ModelFacts("small", "fp_0123456789ab", "int8")]
    facts = JobFacts("finished", 124, 1_700_000_000, "0.1.0", models, {"seed": "0", "mode": name})
    report = tally.report(Statistics.of(STATISTICS), facts, timeline(points))
    return with_cost(report, Prices("EUR", {"small": ModelPrice(1.5, 2.0)}))
