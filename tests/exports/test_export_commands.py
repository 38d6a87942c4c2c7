"""Laws of the commands with exports: what is chosen is said, and nothing is read twice."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from export_files import exported

import aobatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out an export."""
    return exported("llama-genai", tmp_path / "tiny")


def run(
    command: Path, folder: Path, *arguments: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the command beside the export."""
    return subprocess.run(
        [command, *arguments],
        cwd=folder.parent,
        env=os.environ | {"XDG_CACHE_HOME": str(folder.parent / "cache")} | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_inspect_shows_what_is_known(command: Path, folder: Path) -> None:
    """As JSON: the graph that was chosen, its precision and its limits."""
    facts = json.loads(run(command, folder, "models", "inspect", "./tiny", "--json").stdout)

    assert (facts["source"], facts["family"]) == ("model.onnx", "export-gqa")
    assert (facts["precision"], facts["context_length"]) == ("fp32", 512)
    assert facts["path"] == str(folder)


def test_complete_says_which_graph_it_opens(command: Path, folder: Path) -> None:
    """On standard error; the answer alone is on standard output."""
    arguments = ("complete", "once", "--max-tokens", "4", "--temperature", "0")
    found = run(command, folder, *arguments, "--model", "./tiny")
    named = run(command, folder, *arguments, "--model", "./tiny/model.onnx")

    assert "opening model.onnx of tiny" in found.stderr
    assert found.returncode == 0
    assert found.stdout == named.stdout


def test_exports_that_cannot_run_fail_the_job_or_the_line(command: Path, folder: Path) -> None:
    """Exit code 69 where the job names a broken one; a line that does gets an error record."""
    (folder / "model.onnx.data").unlink()
    (folder.parent / "plain.jsonl").write_text('{"prompt": "a"}\n')
    (folder.parent / "named.jsonl").write_text('{"prompt": "a", "model": "./tiny"}\n')
    own = run(command, folder, "run", "plain.jsonl", "--model", "./tiny", "--quiet")
    line = run(command, folder, "run", "named.jsonl", "--output", "out.jsonl", "--quiet")

    assert own.returncode == 69
    assert "model.onnx.data" in own.stderr
    assert line.returncode == 1
    record = json.loads((folder.parent / "out.jsonl").read_text())
    assert record["error"]["code"] == "model_not_found"


def test_dry_runs_and_depfiles_know_exports(command: Path, folder: Path) -> None:
    """A plan counts the export's tokens; make sees the files that a result hangs on."""
    (folder.parent / "in.jsonl").write_text('{"prompt": "a", "max_tokens": 3}\n')
    plan = run(command, folder, "validate", "in.jsonl", "--model", "./tiny", "--json")
    done = run(
        command, folder, "run", "in.jsonl", "--model", "./tiny/model.onnx",
        "--output", "out.jsonl", "--depfile", "out.d",
    )  # fmt: skip

    assert plan.returncode == done.returncode == 0
    named = (folder.parent / "out.d").read_text()
    assert all(str(path) in named for path in folder.iterdir())


def test_a_known_export_is_found_without_heavy_libraries(command: Path, folder: Path) -> None:
    """A finished job reads no weight again, and waits for no runtime."""
    # What changed just now is not remembered; the time of a change cannot be set.
    time.sleep(max(0, (folder / "model.onnx").stat().st_ctime + 2.1 - time.time()))
    run(command, folder, "models", "inspect", "./tiny")
    code = (
        "import sys, aobatch; aobatch.LocalBackend().resolve('./tiny');"
        "print({'numpy', 'onnx', 'onnx_ir', 'onnxruntime', 'tokenizers'} & {*sys.modules})"
    )
    environment = {"PYTHONPATH": str(Path(aobatch.__file__).parents[1])}
    found = run(Path(sys.executable), folder, "-c", code, **environment)

    assert found.stdout == "set()\n", found.stderr
