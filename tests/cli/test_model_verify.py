"""Laws of `aobatch models verify`."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder


@pytest.fixture
def folder(tiny_fp32: ModelFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a model of the models' folder that may be damaged."""
    monkeypatch.setenv("AOBATCH_MODELS", str(tmp_path / "models"))
    return Path(shutil.copytree(tiny_fp32.path, tmp_path / "models" / "tiny"))


def test_sound_model_is_told_so(runner: CliRunner, folder: Path) -> None:
    """Each check has a line that says ok, on standard output."""
    result = runner.invoke(aobatch, ["models", "verify", "tiny"])

    assert result.exit_code == 0, result.output
    assert {line.split()[0] for line in result.stdout.splitlines()} == {"ok"}


def test_damaged_model_ends_with_69(runner: CliRunner, folder: Path) -> None:
    """The line of the file says FAILED and what to do; the JSON says the same."""
    with (folder / "tokenizer.json").open("a") as file:
        file.write("\n")

    shown = runner.invoke(aobatch, ["models", "verify", str(folder)])
    told = runner.invoke(aobatch, ["models", "verify", "tiny", "--json"])

    assert shown.exit_code == told.exit_code == 69
    (line,) = [line for line in shown.stdout.splitlines() if line.startswith("FAILED")]
    assert "tokenizer.json" in line
    assert "convert or import the model again" in line
    result = json.loads(told.stdout)
    assert result["is_right"] is False
    assert [c["name"] for c in result["checks"] if c["state"] == "failed"] == ["tokenizer.json"]
    assert told.stderr == ""


def test_a_change_of_no_byte_count_is_told_as_one(runner: CliRunner, folder: Path) -> None:
    """Two equal sizes are not said to differ."""
    path = folder / "model.onnx.data"
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)

    shown = runner.invoke(aobatch, ["models", "verify", "tiny"]).stdout

    (line,) = [line for line in shown.splitlines() if line.startswith("FAILED  model.onnx.data")]
    assert f"as many bytes as conversion wrote, {len(content):,}, and others" in line


def test_what_lies_at_a_path_and_is_no_model_is_told_so(runner: CliRunner, folder: Path) -> None:
    """A folder that is there is not said to be missing."""
    for path in folder.glob("model.*"):
        path.unlink()

    result = runner.invoke(aobatch, ["models", "verify", str(folder)])

    assert result.exit_code == 69
    assert f"{folder} is no model: it has no weights" in result.stderr


@pytest.mark.parametrize("name", ["gone", "./gone", "smollm2-135m-instruct"])
def test_model_that_is_not_here_ends_with_69(runner: CliRunner, folder: Path, name: str) -> None:
    """There is nothing to check, in one sentence."""
    result = runner.invoke(aobatch, ["models", "verify", name])

    assert result.exit_code == 69
    assert f"'{name}' does not exist" in result.stderr


def test_export_is_tried(runner: CliRunner, data: Path, tmp_path: Path) -> None:
    """Of a graph that another tool wrote there is no record; whether it runs rightly is seen."""
    folder = Path(shutil.copytree(data / "exported/llama-optimum", tmp_path / "export"))
    shutil.copy(data / "tiny-llama/tokenizer.json", folder)

    verified = runner.invoke(aobatch, ["models", "verify", str(folder)])
    inspected = runner.invoke(aobatch, ["models", "inspect", str(folder)])

    assert (verified.exit_code, inspected.exit_code) == (0, 0), verified.output
    assert [line.split()[0] for line in verified.stdout.splitlines()] == ["-", "ok"]
    assert "exported ONNX graph" in inspected.stdout
    assert "with int8 cache" not in inspected.stdout
