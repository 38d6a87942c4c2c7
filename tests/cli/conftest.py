"""Fixtures of the command line's tests: the fake backend in place of a model."""

from pathlib import Path

import click.testing
import pytest
from fake_command import Invoke
from fakes import FakeBackend

from aobatch.cli.main import aobatch


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> FakeBackend:
    """Give the backend that the command opens."""
    backend = FakeBackend()
    monkeypatch.setattr("aobatch.cli.run.open_backend", lambda _options, _stages: backend)
    return backend


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> click.testing.CliRunner:
    """Give a runner whose working folder is empty."""
    monkeypatch.chdir(tmp_path)
    return click.testing.CliRunner()


@pytest.fixture
def invoke(runner: click.testing.CliRunner) -> Invoke:
    """Give a function that runs the command here, and sees that it ends with an exit code."""

    def invoke(*arguments: object, code: int = 0, **options: object) -> click.testing.Result:
        result = runner.invoke(aobatch, [*map(str, arguments)], **options)  # type: ignore[arg-type]
        assert result.exit_code == code, result.output
        return result

    return invoke


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Give an input of 400 requests."""
    path = tmp_path / "in.jsonl"
    path.write_text("".join(f'{{"prompt":"p{number}"}}\n' for number in range(400)))
    return path
