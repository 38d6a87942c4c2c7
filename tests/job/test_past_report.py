"""Laws of reports that are read again, of finished jobs and of others."""

import json
import shutil
from pathlib import Path

import msgspec
import pytest
from fakes import FakeBackend
from job_files import PROMPTS, requests, run, write_input

from aobatch.errors import InputError, InputMissingError
from aobatch.job.report.facts import past_report
from aobatch.job.report.usage import UsageReport


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Give the output of a job whose input is there."""
    lines = [*requests(PROMPTS, user="ada"), b"nonsense", {"prompt": "x", "model": "gone"}]
    write_input(tmp_path / "in.jsonl", lines)
    return tmp_path / "out.jsonl"


def test_finished_report_is_the_published_one(output: Path) -> None:
    """What is shown again is what was written, with the state of the job or without."""
    report = run(output.parent).report
    shown = past_report(output)
    shutil.rmtree(output.with_name("out.jsonl.aobatch"))

    assert shown == report == past_report(output)
    assert json.loads((output.parent / "out.jsonl.usage.json").read_text()) == (
        msgspec.to_builtins(report)
    )


def test_report_says_what_the_job_was(output: Path) -> None:
    """Models with their fingerprints, settings, lines and the beginning stand in the report."""
    facts = run(output.parent, defaults={"max_tokens": 5, "prompt": "secret"}).report.job

    assert [(model.name, model.fingerprint) for model in facts.models] == [("fake", "fp_1")]
    assert facts.settings["seed"] == "0"
    assert facts.settings["default max_tokens"] == "5"
    assert "secret" not in str(facts)
    assert (facts.state, facts.lines, facts.created) == ("finished", 9, 1_700_000_000)


def test_histograms_count_completed_requests(output: Path) -> None:
    """Each histogram holds every answered request once; the percentiles of prompts are exact."""
    report = run(output.parent).report
    lengths = sorted(len(prompt) for prompt in PROMPTS if not prompt.startswith("fail"))

    for name in ("prompt_tokens", "completion_tokens", "seconds"):
        assert sum(getattr(report.histograms, name).counts) == report.requests.completed == 6
    assert report.prompt_tokens.p50 == lengths[2]


def test_unfinished_report_adds_up_what_is_there(output: Path) -> None:
    """An interrupted job reports the results so far; the finished one has them all."""
    explosive = FakeBackend(explosion=KeyboardInterrupt(), explodes_at=4)
    with pytest.raises(KeyboardInterrupt):
        run(output.parent, explosive)
    partial = past_report(output)
    whole = run(output.parent).report

    assert (partial.job.state, partial.job.lines) == ("interrupted", 9)
    assert partial.requests.total == len(explosive.computed) == 4
    assert partial.requests.failed == 1
    assert partial.job.models == [
        msgspec.structs.replace(model, precision="", kernels="", kv_cache_dtype="")
        for model in whole.job.models
    ]
    assert 0 < partial.usage.total_tokens < whole.usage.total_tokens
    assert past_report(output) == whole


def test_no_job_is_a_missing_input(tmp_path: Path) -> None:
    """A name that no job wrote to is told."""
    with pytest.raises(InputMissingError, match="not the output of a job"):
        past_report(tmp_path / "no.jsonl")


def test_damaged_report_is_told(output: Path) -> None:
    """A report that was changed into something else is not shown."""
    output.with_name("out.jsonl.usage.json").write_text("{}")

    with pytest.raises(InputError, match="is not a readable report"):
        past_report(output)


def test_lists_of_numbers_take_one_line(output: Path) -> None:
    """The file stays readable: what a histogram counted is one line, and the JSON is the same."""
    report = run(output.parent).report
    text = output.with_name("out.jsonl.usage.json").read_text()

    assert msgspec.json.decode(text, type=UsageReport) == report
    lines = [line for line in text.splitlines() if '"counts"' in line or '"seconds": [' in line]
    assert len(lines) == 4
    assert all(line.rstrip(",").endswith("]") for line in lines)
