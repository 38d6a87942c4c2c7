"""A run as a file of metrics that Prometheus' node exporter picks up."""

import time
from pathlib import Path
from typing import TYPE_CHECKING

from aobatch.errors import UsageError
from aobatch.files import storage_error
from aobatch.job.report import UsageReport
from aobatch.job.summary import Summary

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

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
