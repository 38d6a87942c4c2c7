"""Laws of `aobatch models inspect`."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from aobatch.cli.main import aobatch
from aobatch.models.store.folder import ModelFolder


def facts(runner: CliRunner, name: object) -> dict[str, object]:
    """Inspect a model as a program does."""
    result = runner.invoke(aobatch, ["models", "inspect", str(name), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def shown(runner: CliRunner, name: object) -> dict[str, str]:
    """Inspect a model as a person does: the table by its labels."""
    result = runner.invoke(aobatch, ["models", "inspect", str(name)])
    assert result.exit_code == 0, result.output
    rows = [line.split("  ", 1) for line in result.stdout.splitlines()]
    return {label.strip(): text.strip() for label, text in rows}


def test_table_and_json_say_the_same(runner: CliRunner, tiny_int8: ModelFolder) -> None:
    """The table has for people what the JSON has for programs."""
    values, rows = facts(runner, tiny_int8.path), shown(runner, tiny_int8.path)

    assert rows["path"] == values["path"] == str(tiny_int8.path)
    assert rows["digest"] == values["digest"] == tiny_int8.manifest.digest
    assert rows["layout"] == values["layout"] == "aobatch 2"
    assert rows["ends a text"] == "0 <|endoftext|>"
    assert rows["infill"] == "1 <|fim_prefix|>, 2 <|fim_suffix|>, 3 <|fim_middle|>"
    assert rows["context"] == f"{values['context_length']:,} tokens"
    assert f"{values['vocab_size']}" in rows["sizes"]
    assert (
        values["kv_cache"]["int8"]["bytes_per_token"] * 4
        == (  # type: ignore[index]
            values["kv_cache"]["fp32"]["bytes_per_token"]  # type: ignore[index]
        )
    )
    assert {"cache fp32", "cache int8", "quality", "with int8 cache", "licence"} <= rows.keys()


def test_file_is_inspected_without_conversion(runner: CliRunner, tiny_gguf: Path) -> None:
    """A GGUF file says that it can be imported and how large it will be; nothing is written."""
    before = sorted(tiny_gguf.parent.iterdir())

    rows = shown(runner, tiny_gguf)

    assert rows["usable"] == "yes, once it is imported"
    assert {"int8", "nbits8", "fp32"} <= set(rows["once converted"].split())
    assert rows["licence"] == "apache-2.0"
    assert sorted(tiny_gguf.parent.iterdir()) == before


def test_folder_of_another_kind_says_why(runner: CliRunner, data: Path, tmp_path: Path) -> None:
    """What cannot be imported is no failure of the command: its facts are what was asked for."""
    shutil.copytree(data / "tiny-llama", tmp_path / "odd")
    config = json.loads((tmp_path / "odd/config.json").read_text())
    (tmp_path / "odd/config.json").write_text(json.dumps(config | {"model_type": "mamba"}))

    assert "'mamba' is not supported" in shown(runner, "./odd")["usable"]
    assert facts(runner, "./odd")["is_usable"] is False


@pytest.mark.parametrize("name", ["gone", "./gone", "no.gguf"])
def test_unknown_model_cannot_be_inspected(runner: CliRunner, name: str) -> None:
    """A wrong name is an error of the model, in one sentence."""
    result = runner.invoke(aobatch, ["models", "inspect", name])

    assert result.exit_code == 69
    assert "aobatch: error: " in result.stderr
    assert f"'{name}'" in result.stderr
