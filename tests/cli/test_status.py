"""Laws of `aobatch status`."""

import json
from pathlib import Path

import click.testing
from fakes import FakeBackend

from aobatch.cli.main import aobatch
from aobatch.errors import StorageError


def test_status_follows_a_job(
    runner: click.testing.CliRunner, backend: FakeBackend, tmp_path: Path
) -> None:
    """Interrupted, then finished; as a sentence and as JSON."""
    (tmp_path / "in.jsonl").write_text('{"prompt":"a"}\n{"prompt":"b"}\n')
    backend.explosion, backend.explodes_at = StorageError("full"), 1
    assert runner.invoke(aobatch, ["run", "in.jsonl"]).exit_code == 74
    stopped = runner.invoke(aobatch, ["status", "in.out.jsonl"])
    backend.explosion = None
    runner.invoke(aobatch, ["run", "in.jsonl"])
    finished = runner.invoke(aobatch, ["status", "in.out.jsonl", "--json"])

    assert "was interrupted; run the same command again: 1 of 2 lines answered" in stopped.stdout
    assert json.loads(finished.stdout)["state"] == "finished"


def test_status_of_nothing_exits_with_66(runner: click.testing.CliRunner) -> None:
    """An output that no job wrote is a missing input."""
    result = runner.invoke(aobatch, ["status", "no.jsonl"])

    assert result.exit_code == 66
    assert "not the output of a job" in result.stderr
