"""Laws of `aobatch models`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.models.folder import ModelFolder


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))


def test_list_shows_the_default_model_first(runner: CliRunner) -> None:
    """The table has a line for each model, and says which are not here."""
    result = runner.invoke(aobatch, ["models", "list"])

    header, first, *_ = result.stdout.splitlines()
    assert header.split() == ["name", "state", "precision", "size", "licence", "aliases"]
    assert first.startswith("smollm2-135m-instruct  not pulled")
    assert "gpt-3.5-turbo-instruct" in first


def test_imported_model_is_listed_and_inspected(runner: CliRunner, tiny_gguf: Path) -> None:
    """A GGUF file becomes a model under its new name."""
    arguments = ["models", "import", str(tiny_gguf), "mine", "--precision", "fp32"]
    imported = runner.invoke(aobatch, arguments)
    assert imported.exit_code == 0, imported.output
    assert imported.stdout == ""
    assert "mine is ready in" in imported.stderr

    facts = json.loads(runner.invoke(aobatch, ["models", "inspect", "mine", "--json"]).stdout)

    assert (facts["name"], facts["precision"]) == ("mine", "fp32")
    assert any(
        line.startswith("mine") and "ready" in line
        for line in runner.invoke(aobatch, ["models", "list"]).stdout.splitlines()
    )


def test_file_that_is_no_model_is_refused(runner: CliRunner, tmp_path: Path) -> None:
    """A text file cannot be imported."""
    (tmp_path / "text.gguf").write_text("not a model")

    result = runner.invoke(aobatch, ["models", "import", str(tmp_path / "text.gguf"), "mine"])

    assert result.exit_code == 69, result.output
    assert not (tmp_path / "models" / "mine").exists()


@pytest.mark.parametrize("is_quiet", [False, True])
def test_pull_shows_its_stages(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, tiny_fp32: ModelFolder, is_quiet: bool
) -> None:
    """A log has a line a stage and the place of the model; --quiet has nothing."""

    def ensure(_name: str, progress: Callable[[str, int, int], None], *_: object) -> ModelFolder:
        progress("downloading", 1, 2)
        progress("downloading", 2, 2)
        return tiny_fp32

    monkeypatch.setattr("aobatch.executors.local.ensure", ensure)
    result = runner.invoke(aobatch, ["models", "pull", "any", *(["-q"] if is_quiet else [])])

    expected = "" if is_quiet else f"downloading\ntiny-fp32 is ready in {tiny_fp32.path}\n"
    assert (result.exit_code, result.output) == (0, expected)
