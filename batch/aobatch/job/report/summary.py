"""How a run ended, for programs: one line of JSON, or a file of Prometheus metrics."""

import errno
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import msgspec
from msgspec.structs import replace

from aobatch.errors import JobError, UsageError
from aobatch.executors import package_version
from aobatch.files import storage_error, write_whole
from aobatch.job.config import STREAM
from aobatch.job.report.usage import UsageReport, report_path
from aobatch.job.status import job_status

if TYPE_CHECKING:
    from aobatch.job.validation import LineCounts

MAX_MESSAGE = 1000
INTERRUPTED = {75, 129, 130, 143}
"""Exit codes after which the same command goes on with the job."""


class JobSummary(msgspec.Struct, frozen=True, kw_only=True):
    """An output of a run that has several; numbers are null where nothing is known of them."""

    output: str
    lines: int | None = None
    answered: int | None = None
    failed: int | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None


_COUNTED = JobSummary.__struct_fields__[1:]


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run; numbers are null where nothing is known of them."""

    state: Literal["finished", "interrupted", "failed"]
    exit_code: int
    message: str | None
    """Why the exit code is not 0."""
    output: str | None
    """Null if the run has several, or was stopped ahead of its work."""
    report: str | None
    """The file of the usage report."""
    lines: int | None = None
    """Of the inputs."""
    answered: int | None = None
    """Lines that have their output line, failed ones too."""
    failed: int | None = None
    failed_by_code: dict[str, int] = {}
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    seconds: float | None = None
    """Wall time of all runs so far."""
    tokens_per_second: float | None = None
    cost: float | None = None
    currency: str | None = None
    jobs: list[JobSummary] = []
    """Of a run with several outputs: each of them, with what is known of it; elsewhere the sum."""
    version: str = ""


def summarise(
    exit_code: int, message: str | None, output: Path | None, report: UsageReport | None
) -> Summary:
    """Summarise a run; without a report what is known comes from the job's state."""
    stopped: Literal["interrupted", "failed"] = (
        "interrupted" if exit_code in INTERRUPTED else "failed"
    )
    has_file = output is not None and output != STREAM
    ended = Summary(
        state="finished" if exit_code in {0, 1} else stopped,
        exit_code=exit_code,
        message=message if message is None else message[:MAX_MESSAGE],
        output=None if output is None else str(output),
        report=str(report_path(output)) if output and has_file and report else None,
        version=package_version(),
    )
    if report:
        return _with_report(ended, report)
    return _with_state(ended, output) if output and has_file else ended


def _with_report(summary: Summary, report: UsageReport) -> Summary:
    cost = report.cost
    return replace(
        summary,
        lines=report.requests.total,
        answered=report.requests.total,
        failed=report.requests.failed,
        failed_by_code=report.requests.failed_by_code,
        prompt_tokens=report.usage.prompt_tokens,
        completion_tokens=report.usage.completion_tokens,
        seconds=report.counted.wall_seconds,
        tokens_per_second=report.tokens_per_second,
        cost=cost.total if cost else None,
        currency=cost.currency if cost else None,
    )


def _with_state(summary: Summary, output: Path) -> Summary:
    """Add how far a job is; nothing if that cannot be read, or is an earlier job's end."""
    try:
        status = job_status(output)
    except (JobError, OSError):
        return summary
    if status.state == "finished":
        return summary
    return replace(summary, **{name: getattr(status, name) for name in _COUNTED})


def summarise_all(
    exit_code: int, message: str | None, jobs: Sequence[tuple[Path, UsageReport | None]]
) -> Summary:
    """Summarise a run of any number of jobs: their sum, and each of several by itself."""
    if len(jobs) < 2:
        output, report = jobs[0] if jobs else (None, None)
        return summarise(exit_code, message, output, report)
    parts = [summarise(exit_code, None, output, report) for output, report in jobs]
    codes = sum((Counter(part.failed_by_code) for part in parts), Counter[str]())
    rates = [(r.usage.completion_tokens, r.tokens_per_second) for _, r in jobs if r is not None]
    seconds = sum(tokens / rate for tokens, rate in rates if rate)
    speed = round(sum(tokens for tokens, _ in rates) / seconds, 3) if seconds else None
    return replace(
        summarise(exit_code, message, None, None),
        **{name: _sum_known(parts, name) for name in (*_COUNTED, "cost")},
        failed_by_code=dict(codes.most_common()),
        tokens_per_second=speed,
        currency=next((part.currency for part in parts if part.currency), None),
        jobs=[
            JobSummary(output=str(part.output), **{name: getattr(part, name) for name in _COUNTED})
            for part in parts
        ],
    )


def _sum_known(parts: Sequence[Summary], name: str) -> float | None:
    known = [number for part in parts if (number := getattr(part, name)) is not None]
    return sum(known) if known else None


def with_checked(summary: Summary, lines: "LineCounts") -> Summary:
    """Add what a dry run has found: no line was answered, but it is known which would fail."""
    return replace(
        summary, lines=lines.total, failed=lines.bad, failed_by_code=dict(lines.bad_by_code)
    )


def summary_line(summary: Summary) -> str:
    """Write a summary as one line of ASCII."""
    return json.dumps(msgspec.to_builtins(summary), separators=(",", ":"))


def write_anywhere(path: Path, content: bytes) -> None:
    """Make content the file at path, whole at once if that is a regular file."""
    if not path.exists() or path.is_file():  # else a device or a pipe
        try:
            write_whole(path, content)
        except JobError as error:
            # A file that a container mounts can be written and not replaced.
            if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EBUSY:
                raise
        else:
            return
    try:
        path.write_bytes(content)
    except OSError as error:
        raise storage_error(path, error) from error


LAST_SUCCESS = "aobatch_last_success_timestamp_seconds"

Metric: TypeAlias = tuple[str, str, float | None, Mapping[str, str]]
"""A name, its meaning, a value if it is known, and labels."""


def check_metrics_extra() -> None:
    """Refuse to go on without what metrics need; UsageError says how to get it."""
    try:
        import prometheus_client  # noqa: F401 - only whether it is there
    except ImportError as error:
        message = (
            "--metrics-file needs the extra [metrics]: `pip install prometheus_client` adds what "
            "it has"
        )
        raise UsageError(message) from error


def write_metrics(path: Path, summary: Summary, report: UsageReport | None) -> None:
    """Write the metrics of a run, at once; the time of the last success outlives failed runs.

    All name the output of their job, so that files of several jobs do not clash.
    """
    check_metrics_extra()
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    gauges: dict[str, Gauge] = {}
    for name, meaning, value, labels in _metrics(summary, report, _last_success(path, summary)):
        if value is not None:
            if name not in gauges:
                gauges[name] = Gauge(name, meaning, ("output", *labels), registry=registry)
            gauges[name].labels(output=summary.output or "", **labels).set(value)
    write_anywhere(path, generate_latest(registry))


def _metrics(
    summary: Summary, report: UsageReport | None, last_success: float | None
) -> Iterator[Metric]:
    yield "aobatch_exit_code", "Exit code of the last run.", summary.exit_code, {}
    yield "aobatch_last_run_timestamp_seconds", "When the last run ended.", time.time(), {}
    yield LAST_SUCCESS, "When a run last ended with exit code 0.", last_success, {}
    yield "aobatch_seconds", "Wall time of all runs of the job.", summary.seconds, {}
    speed = summary.tokens_per_second
    yield "aobatch_tokens_per_second", "New tokens a second of wall time.", speed, {}
    yield "aobatch_lines", "Lines of the inputs.", summary.lines, {}
    if summary.answered is not None and summary.failed is not None:
        outcomes = [("completed", "", summary.answered - summary.failed)]
        by_code = summary.failed_by_code or {"": summary.failed}
        outcomes += [("failed", code, number) for code, number in by_code.items()]
        for outcome, code, number in outcomes:
            labels = {"outcome": outcome, "code": code}
            yield "aobatch_requests", "Requests by what became of them.", number, labels
    tokens = [("", summary.prompt_tokens, summary.completion_tokens)]
    if report is not None:
        groups = [group for group in report.by_model if group.total_tokens]
        tokens = [(g.name or "", g.prompt_tokens, g.completion_tokens) for g in groups]
    for model, prompt, completion in tokens:
        for kind, count in (("prompt", prompt), ("completion", completion)):
            labels = {"model": model, "kind": kind}
            yield "aobatch_tokens", "Tokens by model and kind.", count, labels


def _last_success(path: Path, summary: Summary) -> float | None:
    """The time of the last success; that of an earlier run stands in the file that it left."""
    from prometheus_client.parser import text_string_to_metric_families

    if summary.exit_code == 0:
        return time.time()
    if not path.is_file():
        return None
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    samples = [sample for family in families for sample in family.samples]
    return next((float(s.value) for s in samples if s.name == LAST_SUCCESS), None)
