"""The usage report as text for people."""

from collections.abc import Iterator, Mapping, Sequence

from aobatch.job.report import GroupUsage, Percentiles, UsageReport
from aobatch.text import printable

_SHARED = {
    "prefix_tokens_shared": "prompt tokens of common beginnings",
    "requests_shared": "results of equal requests",
}
"""What statistics count that was computed once for several."""

_HEADER = ("", "requests", "failed", "prompt", "completion", "total tokens")


def report_table(report: UsageReport) -> str:
    """Lay a report out in aligned columns."""
    rows = [_HEADER, *(_group_row(group) for group in report.by_model)]
    if len(report.by_model) != 1:
        rows.append(_total_row(report))
    return "\n".join([*_aligned(rows), *_notes(report)])


def _group_row(group: GroupUsage) -> tuple[str, ...]:
    name = "(no model)" if group.name is None else printable(group.name)
    tokens = (group.prompt_tokens, group.completion_tokens, group.total_tokens)
    return name, *(f"{number:,}" for number in (group.requests, group.failed, *tokens))


def _total_row(report: UsageReport) -> tuple[str, ...]:
    requests, usage = report.requests, report.usage
    tokens = (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens)
    return "all", *(f"{number:,}" for number in (requests.total, requests.failed, *tokens))


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *numbers in rows:
        cells = (f"{cell:>{width}}" for cell, width in zip(numbers, widths[1:], strict=True))
        yield "  ".join([f"{name:<{widths[0]}}", *cells])


def _notes(report: UsageReport) -> Iterator[str]:
    if report.requests.failed_by_code:
        yield f"failed: {_counts(report.requests.failed_by_code)}"
    if report.finish_reasons:
        yield f"finish reasons: {_counts(report.finish_reasons)}"
        yield f"new tokens a request: {_percentiles(report.completion_tokens, '{:,.0f}')}"
        yield f"seconds a request: {_percentiles(report.seconds, '{:,.2f}')}"
    yield from _savings(report.statistics)
    wall_seconds = report.statistics.get("wall_seconds", 0.0)
    model_seconds = report.statistics.get("model_seconds", 0.0)
    fetching = f" ({model_seconds:,.1f} of them to get the model)" if model_seconds >= 1 else ""
    yield f"{wall_seconds:,.1f} s{fetching}, {report.tokens_per_second:,.1f} new tokens a second"


def _savings(statistics: Mapping[str, float]) -> Iterator[str]:
    """Say what was not computed twice, and how full the slots were while requests waited."""
    counts = {what: statistics.get(name, 0) for name, what in _SHARED.items()}
    if shared := [f"{count:,.0f} {what}" for what, count in counts.items() if count]:
        yield f"shared: {', '.join(shared)}"
    if slots := statistics.get("busy_slots", 0):
        yield f"slots in use while requests waited: {statistics['busy_rows'] / slots:.1%}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {printable(name)}" for name, number in counts.items())


def _percentiles(values: Percentiles, form: str) -> str:
    named = (("p50", values.p50), ("p90", values.p90), ("p99", values.p99))
    return ", ".join(f"{name} {form.format(value)}" for name, value in named if value is not None)
