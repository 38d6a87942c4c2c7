"""Laws of the file of metrics."""

import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from report_files import full_report

from aobatch.errors import OutputError, UsageError
from aobatch.job.report.summary import check_metrics_extra, summarise, write_metrics

OUTPUT = Path('out "1".jsonl')
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(path: Path) -> Samples:
    """Read a file as Prometheus does."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    """Give the value of a metric of the job."""
    return found[name, frozenset({"output": str(OUTPUT), **labels}.items())]


def test_metrics_are_the_numbers_of_the_report(tmp_path: Path) -> None:
    """Requests by outcome and code, and tokens by model and kind, are those of the report."""
    report, path = full_report(), tmp_path / "a.prom"
    write_metrics(path, summarise(0, None, OUTPUT, report), report)

    found = samples(path)

    assert value(found, "aobatch_requests", outcome="completed", code="") == 120
    assert value(found, "aobatch_requests", outcome="failed", code="invalid_type") == 3
    tokens = {"prompt": report.usage.prompt_tokens, "completion": report.usage.completion_tokens}
    for kind, number in tokens.items():
        assert value(found, "aobatch_tokens", model="small", kind=kind) == number
    assert value(found, "aobatch_seconds") == 61.25
    assert value(found, "aobatch_exit_code") == 0
    assert list(tmp_path.iterdir()) == [path]


def test_time_of_the_last_success_outlives_a_failure(tmp_path: Path) -> None:
    """A failed run keeps when the job last succeeded; without a success there is none."""
    path = tmp_path / "a.prom"
    name = "aobatch_last_success_timestamp_seconds"
    write_metrics(path, summarise(74, "disk full", OUTPUT, None), None)
    assert name not in path.read_text()
    write_metrics(path, summarise(0, None, OUTPUT, full_report()), full_report())
    succeeded = value(samples(path), name)
    write_metrics(path, summarise(74, "disk full", OUTPUT, None), None)
    found = samples(path)

    assert value(found, name) == succeeded
    assert value(found, "aobatch_exit_code") == 74
    assert value(found, "aobatch_last_run_timestamp_seconds") >= succeeded


def test_damaged_metrics_are_replaced(tmp_path: Path) -> None:
    """A file that is no file of metrics does not keep a run from writing its own."""
    path = tmp_path / "a.prom"
    path.write_bytes(b"\xff{{{")

    write_metrics(path, summarise(1, "failed", OUTPUT, full_report()), full_report())

    assert value(samples(path), "aobatch_exit_code") == 1


def test_unwritable_place_is_one_sentence(tmp_path: Path) -> None:
    """Metrics that cannot be written are a job's error, not a traceback."""
    with pytest.raises(OutputError, match="cannot be created"):
        write_metrics(tmp_path / "no/a.prom", summarise(0, None, OUTPUT, None), None)


def test_missing_extra_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the library the user hears how to get it."""
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    with pytest.raises(UsageError, match=r"extra \[metrics\]: `pip install prometheus_client`"):
        check_metrics_extra()
