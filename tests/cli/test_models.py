"""Laws of `aobatch models`."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder


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


def test_list_is_there_for_programs(runner: CliRunner) -> None:
    """As JSON it has the models of the table, in their order, and which of them are here."""
    _, *lines = runner.invoke(aobatch, ["models", "list"]).stdout.splitlines()

    rows = json.loads(runner.invoke(aobatch, ["models", "list", "--json"]).stdout)["models"]

    assert [row["name"] for row in rows] == [line.split()[0] for line in lines]
    assert [row["is_ready"] for row in rows] == ["not pulled" not in line for line in lines]


def test_imported_model_is_listed_and_inspected(runner: CliRunner, tiny_gguf: Path) -> None:
    """A GGUF file becomes a model under its new name."""
    arguments = ["models", "import", str(tiny_gguf), "mine", "--precision", "fp32"]
    imported = runner.invoke(aobatch, arguments)
    assert imported.exit_code == 0, imported.output
    assert imported.stdout == ""
    assert "mine is ready in" in imported.stderr

    facts = json.loads(runner.invoke(aobatch, ["models", "inspect", "mine", "--json"]).stdout)

    assert (facts["name"], facts["precision"]) == ("mine", "fp32")
    *_, line = runner.invoke(aobatch, ["models", "list"]).stdout.splitlines()
    size = re.fullmatch(r"mine +ready +fp32 +(\d\.\d\d) MiB +\S+", line)
    assert size is not None, line
    assert float(size[1]) == pytest.approx(facts["size_bytes"] / 2**20, abs=0.005)


def test_model_is_listed_by_the_name_that_finds_it(
    runner: CliRunner, tiny_fp32: ModelFolder, tmp_path: Path
) -> None:
    """A folder of models that was renamed is a model of its new name."""
    shutil.copytree(tiny_fp32.path, tmp_path / "models/renamed")

    *_, line = runner.invoke(aobatch, ["models", "list"]).stdout.splitlines()
    name, *_ = line.split()

    assert name == "renamed"
    assert runner.invoke(aobatch, ["models", "inspect", name]).exit_code == 0


def test_what_cannot_be_pulled_ends_with_69(runner: CliRunner) -> None:
    """A name that nobody knows is told, and is no defect of this program."""
    result = runner.invoke(aobatch, ["models", "pull", "nothing"])

    assert result.exit_code == 69
    assert "'nothing' does not exist" in result.stderr


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
