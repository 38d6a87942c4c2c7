"""Laws of the commands with exports: what is chosen is said, and nothing is read twice."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from export_files import exported

import aobatch as package
from aobatch.cli.main import aobatch

Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out an export."""
    return exported("llama-genai", tmp_path / "tiny")


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Give a function that runs the command beside the export."""
    monkeypatch.chdir(folder.parent)
    return lambda *arguments: CliRunner().invoke(aobatch, arguments)


def test_inspect_shows_what_is_known(run: Run, folder: Path) -> None:
    """As JSON: the graph that was chosen, its precision and its limits."""
    facts = json.loads(run("models", "inspect", "./tiny", "--json").stdout)

    assert (facts["source"], facts["family"]) == ("model.onnx", "export-gqa")
    assert (facts["precision"], facts["context_length"]) == ("fp32", 512)
    assert facts["path"] == str(folder)


def test_complete_says_which_graph_it_opens(run: Run, folder: Path) -> None:
    """On standard error; the answer alone is on standard output."""
    arguments = ("complete", "once", "--max-tokens", "4", "--temperature", "0")
    found = run(*arguments, "--model", "./tiny")
    named = run(*arguments, "--model", "./tiny/model.onnx")

    assert "opening model.onnx of tiny" in found.stderr
    assert found.exit_code == 0
    assert found.stdout == named.stdout


def test_exports_that_cannot_run_fail_the_job_or_the_line(run: Run, folder: Path) -> None:
    """Exit code 69 where the job names a broken one; a line that does gets an error record."""
    (folder / "model.onnx.data").unlink()
    (folder.parent / "plain.jsonl").write_text('{"prompt": "a"}\n')
    (folder.parent / "named.jsonl").write_text('{"prompt": "a", "model": "./tiny"}\n')
    own = run("run", "plain.jsonl", "--model", "./tiny", "--quiet")
    line = run("run", "named.jsonl", "--output", "out.jsonl", "--quiet")

    assert own.exit_code == 69
    assert "model.onnx.data" in own.stderr
    assert line.exit_code == 1
    record = json.loads((folder.parent / "out.jsonl").read_text())
    assert record["error"]["code"] == "model_not_found"


def test_dry_runs_and_depfiles_know_exports(run: Run, folder: Path) -> None:
    """A plan counts the export's tokens; make sees the files that a result hangs on."""
    (folder.parent / "in.jsonl").write_text('{"prompt": "a", "max_tokens": 3}\n')
    plan = run("validate", "in.jsonl", "--model", "./tiny", "--json")
    options = ("--output", "out.jsonl", "--depfile", "out.d")
    done = run("run", "in.jsonl", "--model", "./tiny/model.onnx", *options)

    assert plan.exit_code == done.exit_code == 0
    named = (folder.parent / "out.d").read_text()
    assert all(str(path) in named for path in folder.iterdir())


def test_a_known_export_is_found_without_heavy_libraries(run: Run, folder: Path) -> None:
    """A finished job reads no weight again, and waits for no runtime."""
    # What changed just now is not remembered; the time of a change cannot be set.
    time.sleep(max(0, (folder / "model.onnx").stat().st_ctime + 2.1 - time.time()))
    run("models", "inspect", "./tiny")
    code = (
        "import sys, aobatch; aobatch.LocalBackend().resolve('./tiny');"
        "print({'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'tokenizers'} & {*sys.modules})"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(package.__file__).parents[1])}
    found = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )

    assert found.stdout == "set()\n", found.stderr
