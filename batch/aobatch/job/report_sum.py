"""The usage report of several parts of a job."""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from aobatch.job.report import JobFacts, UsageReport, UsageTally


def add_reports(
    reports: Sequence[UsageReport], measures: Iterable[tuple[int, int, float]]
) -> UsageReport:
    """Add reports up; the measures are tokens and seconds of each completed request.

    Seconds are added too, so that tokens a second are those of one machine at work; parts that were
    computed side by side have no course over time in common.
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
    return replace(tally.report(statistics), job=_whole(facts) if facts else None)


def _whole(facts: Sequence[JobFacts]) -> JobFacts:
    models = {model.name: model for fact in facts for model in fact.models}
    return replace(
        facts[0],
        lines=sum(fact.lines for fact in facts),
        created=min(fact.created for fact in facts),
        models=list(models.values()),
    )
