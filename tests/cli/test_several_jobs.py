"""Laws of a run with several outputs, and of one that is only tried."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_command import COMMAND
from fakes import FakeBackend

from aobatch.cli.main import aobatch

TEMPLATE = ["-o", "{stem}.out{ext}", "-q", "--summary", "json", "--summary-file", "s.json"]


@pytest.fixture
def inputs(tmp_path: Path) -> list[str]:
    """Give inputs of three lines, of one bad line, and of none."""
    (tmp_path / "a.jsonl").write_text('{"prompt":"a"}\n{"prompt":"bb"}\n{"n":0}\n')
    (tmp_path / "b.jsonl").write_text("bad\n")
    (tmp_path / "c.jsonl").write_text("")
    return ["a.jsonl", "b.jsonl", "c.jsonl"]


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("is_second_run", [False, True])
def test_summary_has_the_sum_and_each_job(
    runner: CliRunner, inputs: list[str], is_second_run: bool
) -> None:
    """What is true of all jobs together stands where that of one job does; each is listed."""
    for _ in range(1 + is_second_run):
        result = runner.invoke(aobatch, ["run", *inputs, *TEMPLATE])
    found = json.loads(result.stderr.splitlines()[-1])

    assert found == json.loads(Path("s.json").read_text())
    assert (found["exit_code"], found["state"], found["output"]) == (1, "finished", None)
    names = ("output", "lines", "answered", "failed", "prompt_tokens", "completion_tokens")
    jobs = [tuple(job[name] for name in names) for job in found["jobs"]]
    assert jobs == [
        ("a.out.jsonl", 3, 3, 1, 3, 7),
        ("b.out.jsonl", 1, 1, 1, 0, 0),
        ("c.out.jsonl", 0, 0, 0, 0, 0),
    ]
    assert [found[name] for name in names[1:]] == [4, 4, 2, 3, 7]
    assert found["failed_by_code"] == {"missing_required_parameter": 1, "invalid_json_line": 1}
    assert found["seconds"] == pytest.approx(sum(job["seconds"] for job in found["jobs"]))


@pytest.mark.usefixtures("backend")
def test_one_job_has_no_list(runner: CliRunner, inputs: list[str]) -> None:
    """The summary of one output is that output's."""
    result = runner.invoke(aobatch, ["run", inputs[0], *TEMPLATE, "--max-failures", "1"])
    found = json.loads(result.stderr.splitlines()[-1])

    assert (found["output"], found["jobs"]) == ("a.out.jsonl", [])


def test_stopped_run_says_how_far_each_job_is(tmp_path: Path) -> None:
    """Jobs that were not begun are listed, without numbers."""
    for name in ("a", "b", "c"):
        lines = "".join(f'{{"prompt":"{name}{number}"}}\n' for number in range(100))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    command = [*COMMAND, "0.01", "run", "a.jsonl", "b.jsonl", "c.jsonl", *TEMPLATE]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "b.out.jsonl.aobatch").exists():
        assert process.poll() is None

    process.send_signal(signal.SIGTERM)
    found = json.loads(process.communicate(timeout=30)[1].splitlines()[-1])

    assert process.returncode == -signal.SIGTERM
    first, second, third = found["jobs"]
    assert (first["answered"], third["answered"]) == (100, None)
    assert found["answered"] == 100 + (second["answered"] or 0) < 200


def test_dry_run_computes_and_writes_nothing(
    runner: CliRunner, backend: FakeBackend, inputs: list[str], tmp_path: Path
) -> None:
    """What is wrong is said as by `validate`, and the exit code is that of the run."""
    before = sorted(tmp_path.iterdir())
    for arguments, code in ((["--max-failures", "1"], 0), ([], 1)):
        result = runner.invoke(aobatch, ["run", "a.jsonl", "--dry-run", *arguments])

        assert result.exit_code == code, result.output
        assert "line 3: " in result.stdout
    checked = runner.invoke(aobatch, ["validate", "a.jsonl"])

    assert checked.stdout == result.stdout
    files = ["--summary", "json", "--summary-file", "s.json", "--metrics-file", "m.prom"]
    told = runner.invoke(aobatch, ["run", "a.jsonl", "--dry-run", *files]).stderr.splitlines()[-1]
    assert [json.loads(told)[name] for name in ("lines", "answered", "failed")] == [3, None, 1]
    assert (backend.opened, sorted(tmp_path.iterdir())) == ([], before)
