"""The usage report as one page of HTML that needs nothing else."""

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.errors import UsageError
from aobatch.job import notes
from aobatch.job.report import UsageReport
from aobatch.job.reporting.charts import HEIGHT, WIDTH, Chart, course_chart, histogram_chart
from aobatch.job.reporting.courses import is_drawable, rates, run_starts, shares
from aobatch.job.table import shown_users
from aobatch.text import printable

if TYPE_CHECKING:
    from jinja2 import Environment

MAX_USERS = 100
"""Users with a row of their own, those with most tokens; the others share one."""

PHASES = {
    "prefill_seconds": "reading prompts",
    "decode_seconds": "decoding",
    "sample_seconds": "choosing tokens",
}
"""What lanes spend their time with; the rest is bookkeeping."""


def check_page_extra() -> None:
    """Refuse to go on without what pages need; UsageError says how to get it."""
    _environment()


def report_page(report: UsageReport, name: str) -> bytes:
    """Write the page of a report under the name of its output."""
    template = _environment().get_template("report.html")
    text = template.render(
        report=report,
        name=printable(name, 120),
        users=shown_users(report, MAX_USERS),
        spread=_spread(report),
        courses=_courses(report),
        phases=_phases(report),
        savings=notes.savings(report.statistics),
        occupancy=notes.occupancy(report.statistics),
        worker_rates=notes.worker_rates(report.statistics),
        width=WIDTH,
        height=HEIGHT,
    )
    return text.encode()


def _environment() -> "Environment":
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        message = "reports in HTML need the extra [report]: `pip install jinja2` adds what it has"
        raise UsageError(message) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["printable"] = lambda text: printable(text, 60)
    environment.filters["date"] = _date
    environment.filters["duration"] = notes.duration
    environment.filters["money"] = notes.money
    return environment


def _spread(report: UsageReport) -> list[tuple[Chart, str]]:
    """Draw how requests are spread, with the percentiles under each chart."""
    buckets = report.histograms
    drawn = (
        ("Prompt length", "tokens", buckets.prompt_tokens, report.prompt_tokens, "{:,}"),
        (
            "Completion length",
            "tokens",
            buckets.completion_tokens,
            report.completion_tokens,
            "{:,}",
        ),
        ("Time per request", "s", buckets.seconds, report.seconds, "{:,.2f} s"),
    )
    return [
        (
            histogram_chart(title, unit, values, is_whole=unit == "tokens"),
            notes.percentiles(percentiles, form),
        )
        for title, unit, values, percentiles, form in drawn
        if values.counts
    ]


def _courses(report: UsageReport) -> list[Chart]:
    """Draw what there was to see over time."""
    timeline = report.timeline
    if not is_drawable(timeline):
        return []
    marks = run_starts(timeline)
    charts = [
        course_chart(title, "tokens/s", rates(timeline, counts), marks)
        for title, counts in (
            ("New tokens a second", timeline.new_tokens),
            ("Prompt tokens read a second", timeline.prompt_tokens),
        )
        if counts[-1]
    ]
    if timeline.slots[-1]:
        course = shares(timeline, timeline.rows, timeline.slots)
        charts.append(course_chart("Slots in use", "%", course, marks, highest=100))
    return charts


def _phases(report: UsageReport) -> list[tuple[str, float, float]]:
    """Give what lanes spent their time with: a name, seconds and the share."""
    total = report.statistics.get("lane_seconds", 0)
    if not total:
        return []
    spent = [(name, report.statistics.get(key, 0)) for key, name in PHASES.items()]
    rest = max(0, total - sum(seconds for _, seconds in spent))
    return [(name, seconds, seconds / total) for name, seconds in (*spent, ("bookkeeping", rest))]


def _date(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%-d %b %Y, %H:%M UTC")
