"""The usage report of several parts of a job."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from aobatch.job.report import JobFacts, UsageReport, UsageTally
from aobatch.job.timeline import joined


def add_reports(
    reports: Sequence[UsageReport], measures: Iterable[tuple[int, int, float]]
) -> UsageReport:
    """Add reports up; the measures are tokens and seconds of each completed request.

    Seconds are added too, so that tokens a second are those of one machine at work, and the course
    over time is that of the parts one after another, wherever they were computed.
    """
    tally = UsageTally()
    statistics: dict[str, float] = {}
    for report in reports:
        tally.add_report(report)
        for name, value in report.statistics.items():
            statistics[name] = statistics.get(name, 0) + value
    for measure in measures:
        tally.add_measures(*measure)
    facts = [report.job for report in reports if report.job is not None]
    return replace(
        tally.report(statistics),
        timeline=joined(report.timeline for report in reports),
        job=_whole(facts) if facts else None,
    )


def _whole(facts: Sequence[JobFacts]) -> JobFacts:
    models = {model.name: model for fact in facts for model in fact.models}
    return replace(
        facts[0],
        lines=sum(fact.lines for fact in facts),
        created=min(fact.created for fact in facts),
        models=list(models.values()),
    )
