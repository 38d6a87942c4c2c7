"""What a run has to tell in one line of JSON, however it ended."""

import errno
import json
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from msgspec.structs import replace

from aobatch.errors import JobError, UsageError
from aobatch.files import storage_error, write_whole
from aobatch.job.config import STREAM
from aobatch.job.report.facts import aobatch_version
from aobatch.job.report.usage import UsageReport, report_path
from aobatch.job.status import job_status

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from aobatch.job.validation import LineCounts


MAX_MESSAGE = 1000
_SUMMED = ("lines", "answered", "failed", "prompt_tokens", "completion_tokens", "seconds", "cost")
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
    """Say how a run ended; without a report what is known comes from the job's state."""
    has_file = output is not None and output != STREAM
    numbers = _of_report(report) if report else _of_state(output) if has_file and output else {}
    return msgspec.convert(
        {
            "state": _state(exit_code),
            "exit_code": exit_code,
            "message": message if message is None else message[:MAX_MESSAGE],
            "output": None if output is None else str(output),
            "report": str(report_path(output)) if output and has_file and report else None,
            "version": aobatch_version(),
            **numbers,
        },
        Summary,
    )


def summarise_all(
    exit_code: int, message: str | None, jobs: Sequence[tuple[Path, UsageReport | None]]
) -> Summary:
    """Say how a run of any number of jobs ended: their sum, and each of several by itself."""
    if len(jobs) < 2:
        output, report = jobs[0] if jobs else (None, None)
        return summarise(exit_code, message, output, report)
    whole = summarise(exit_code, message, None, None)
    parts = [summarise(exit_code, None, output, report) for output, report in jobs]
    numbers = {name: _sum([getattr(part, name) for part in parts]) for name in _SUMMED}
    codes = Counter[str]()
    for part in parts:
        codes.update(part.failed_by_code)
    fields = [name for name in JobSummary.__struct_fields__ if name != "output"]
    reports = [report for _, report in jobs if report is not None]
    rates = [(r.usage.completion_tokens, r.tokens_per_second) for r in reports]
    seconds = sum(tokens / rate for tokens, rate in rates if rate)
    return replace(
        whole,
        **numbers,
        failed_by_code=dict(codes.most_common()),
        tokens_per_second=round(sum(tokens for tokens, _ in rates) / seconds, 3)
        if seconds
        else None,
        currency=next((part.currency for part in parts if part.currency), None),
        jobs=[
            JobSummary(output=str(part.output), **{name: getattr(part, name) for name in fields})
            for part in parts
        ],
    )


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
    if path.exists() and not path.is_file():
        _write_in_place(path, content)  # a device or a pipe
        return
    try:
        write_whole(path, content)
    except JobError as error:
        # A file that a container mounts can be written and not replaced.
        if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EBUSY:
            raise
        _write_in_place(path, content)


def _sum(numbers: Sequence[float | None]) -> float | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


def _state(exit_code: int) -> str:
    if exit_code in {0, 1}:
        return "finished"
    return "interrupted" if exit_code in INTERRUPTED else "failed"


def _of_report(report: UsageReport) -> dict[str, object]:
    cost = report.cost
    return {
        "lines": report.requests.total,
        "answered": report.requests.total,
        "failed": report.requests.failed,
        "failed_by_code": report.requests.failed_by_code,
        "prompt_tokens": report.usage.prompt_tokens,
        "completion_tokens": report.usage.completion_tokens,
        "seconds": report.counted.wall_seconds,
        "tokens_per_second": report.tokens_per_second,
        "cost": cost.total if cost else None,
        "currency": cost.currency if cost else None,
    }


def _of_state(output: Path) -> dict[str, object]:
    """Read how far the job is; nothing if that cannot be read, or is an earlier job's end."""
    try:
        status = job_status(output)
    except (JobError, OSError):
        return {}
    if status.state == "finished":
        return {}
    return {
        "lines": status.lines,
        "answered": status.answered,
        "failed": status.failed,
        "prompt_tokens": status.prompt_tokens,
        "completion_tokens": status.completion_tokens,
        "seconds": status.seconds,
    }


def _write_in_place(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise storage_error(path, error) from error


LAST_SUCCESS = "aobatch_last_success_timestamp_seconds"


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
    """Write the metrics of a run, at once; the time of the last success outlives failed runs."""
    from prometheus_client import write_to_textfile

    registry = _registry(summary, report, _last_success(path, summary))
    try:
        write_to_textfile(str(path), registry)
    except OSError as error:
        raise storage_error(path, error) from error


def _registry(
    summary: Summary, report: UsageReport | None, last_success: float | None
) -> "CollectorRegistry":
    from prometheus_client import CollectorRegistry

    registry = CollectorRegistry()
    gauges = _Gauges(registry, summary.output or "")
    gauges.put("aobatch_exit_code", "Exit code of the last run.", summary.exit_code)
    gauges.put("aobatch_last_run_timestamp_seconds", "When the last run ended.", time.time())
    if last_success is not None:
        gauges.put(LAST_SUCCESS, "When a run last ended with exit code 0.", last_success)
    if summary.seconds is not None:
        gauges.put("aobatch_seconds", "Wall time of all runs of the job.", summary.seconds)
    if summary.tokens_per_second is not None:
        speed = "New tokens a second of wall time."
        gauges.put("aobatch_tokens_per_second", speed, summary.tokens_per_second)
    if summary.lines is not None:
        gauges.put("aobatch_lines", "Lines of the inputs.", summary.lines)
    _put_requests(gauges, summary)
    _put_tokens(gauges, summary, report)
    return registry


class _Gauges:
    """Values that all name the output of their job, so that files of several jobs do not clash."""

    def __init__(self, registry: "CollectorRegistry", output: str) -> None:
        self._registry = registry
        self._output = output
        self._known: dict[str, object] = {}

    def put(self, name: str, meaning: str, value: float, **labels: str) -> None:
        from prometheus_client import Gauge

        if name not in self._known:
            names = ("output", *labels)
            self._known[name] = Gauge(name, meaning, names, registry=self._registry)
        gauge = self._known[name]
        assert isinstance(gauge, Gauge)
        gauge.labels(output=self._output, **labels).set(value)


def _put_requests(gauges: _Gauges, summary: Summary) -> None:
    if summary.answered is None or summary.failed is None:
        return
    meaning = "Requests by what became of them."
    completed = summary.answered - summary.failed
    gauges.put("aobatch_requests", meaning, completed, outcome="completed", code="")
    by_code = summary.failed_by_code or {"": summary.failed}
    for code, number in by_code.items():
        gauges.put("aobatch_requests", meaning, number, outcome="failed", code=code)


def _put_tokens(gauges: _Gauges, summary: Summary, report: UsageReport | None) -> None:
    tokens = [("", summary.prompt_tokens, summary.completion_tokens)]
    if report is not None:
        groups = [group for group in report.by_model if group.total_tokens]
        tokens = [(g.name or "", g.prompt_tokens, g.completion_tokens) for g in groups]
    for model, *numbers in tokens:
        for kind, number in zip(("prompt", "completion"), numbers, strict=True):
            if number is not None:
                labels = {"model": model, "kind": kind}
                gauges.put("aobatch_tokens", "Tokens by model and kind.", number, **labels)


def _last_success(path: Path, summary: Summary) -> float | None:
    """Give the time of the last success; that of an earlier run stands in the file it left."""
    from prometheus_client.parser import text_string_to_metric_families

    if summary.exit_code == 0:
        return time.time()
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None
    samples = [sample for family in families for sample in family.samples]
    return next((float(s.value) for s in samples if s.name == LAST_SUCCESS), None)
