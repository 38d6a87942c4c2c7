"""Laws of what a run tells at its end, whichever way it ends."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_command import COMMAND
from fakes import FakeBackend

from aobatch.cli.main import aobatch
from aobatch.errors import StorageError
from aobatch.job.report import summary as module


@pytest.fixture
def source(source: Path) -> Path:
    """Let the last of the requests be bad."""
    *lines, _ = source.read_text().splitlines(keepends=True)
    source.write_text("".join([*lines, "bad\n"]))
    return source


def run_merged(*arguments: str | Path, delay: str = "0") -> tuple[int, list[str]]:
    """Run the command as Airflow does; give its exit code and the lines of both streams."""
    result = subprocess.run(
        [*COMMAND, delay, "run", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return result.returncode, result.stdout.splitlines()


@pytest.mark.parametrize("output", ["out.jsonl", "-"])
@pytest.mark.parametrize("options", [[], ["-q"], ["--log-format", "json"]], ids=str)
def test_summary_is_the_last_line_of_both_streams(
    source: Path, output: str, options: list[str]
) -> None:
    """Nothing follows it, also where answers go to standard output."""
    place = output if output == "-" else source.with_name(output)
    code, lines = run_merged(source, "-o", place, "--summary", "json", *options)
    found = json.loads(lines[-1])

    assert code == found["exit_code"] == 1
    assert (found["state"], found["output"]) == ("finished", str(place))
    assert (found["lines"], found["answered"], found["failed"]) == (400, 400, 1)
    assert found["failed_by_code"] == {"invalid_json_line": 1}
    assert found["message"] == "1 of 400 lines failed, more than --max-failures 0 allows"
    assert len(lines[-1]) < 4096


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["no.jsonl"], 66, "does not exist"),
        (["in.jsonl", "--no-such-option"], 2, "No such option"),
        (["in.jsonl", "--seed", "x"], 2, "not a valid integer"),
        ([], 2, "Missing argument"),
        (["in.jsonl", "--max-failures", "many"], 2, "not a number of lines"),
        (["in.jsonl", "--prices", "no.toml"], 66, "no.toml cannot be read"),
        (["in.jsonl", "-o", "no/out.jsonl"], 73, "does not exist; create it"),
    ],
)
def test_failures_are_told_in_all_forms(
    source: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    """A wrong command line, too, ends with the line, the file and the metrics."""
    monkeypatch.chdir(source.parent)
    told = ["--summary=json", "--summary-file", "s.json", "--metrics-file=m.prom"]
    found_code, lines = run_merged(*arguments, *told)

    found = json.loads(lines[-1])
    assert found_code == found["exit_code"] == code
    assert found["state"] == "failed"
    assert words in found["message"]
    assert json.loads(Path("s.json").read_text()) == found
    assert f"{code}.0" in Path("m.prom").read_text()


def test_stopped_run_tells_how_far_it_came(source: Path) -> None:
    """A signal leaves a summary with what is done, and the process still dies by it."""
    target = source.with_name("s.json")
    command = [*COMMAND, "0.01", "run", str(source), "--summary=json", "--summary-file", target]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "400 lines\n"
    threading.Timer(0.5, process.send_signal, [signal.SIGTERM]).start()
    _, text = process.communicate(timeout=10)
    found = json.loads(text.splitlines()[-1])

    assert process.returncode == -signal.SIGTERM
    assert (found["state"], found["exit_code"], found["lines"]) == ("interrupted", 143, 400)
    assert found["answered"] < 400
    assert json.loads(target.read_text()) == found


def test_reader_that_left_is_told(source: Path) -> None:
    """A broken pipe leaves a summary as well."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    target = source.with_name("s.json")
    command = [*COMMAND, "0", "run", str(source), "-q", "-o", "-", "--summary-file", str(target)]

    result = subprocess.run(command, stdout=write_end, check=False)

    os.close(write_end)
    assert result.returncode == -signal.SIGPIPE
    assert json.loads(target.read_text())["exit_code"] == 141


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("error", "code", "state"),
    [(StorageError("full"), 74, "failed"), (ValueError("a defect"), 70, "failed")],
)
def test_errors_of_a_job_are_told(
    runner: CliRunner, backend: FakeBackend, error: Exception, code: int, state: str
) -> None:
    """What was answered before the error stands in the summary."""
    backend.explosion, backend.explodes_at = error, 5
    if code == 70:
        backend.open = lambda _model: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    result = runner.invoke(aobatch, ["run", "in.jsonl", "-q", "--summary", "json"])

    found = json.loads(result.stderr.splitlines()[-1])
    assert (found["exit_code"], found["state"]) == (result.exit_code, state) == (code, "failed")
    assert found["answered"] == (0 if code == 70 else 5)
    assert str(error) in found["message"]


@pytest.mark.usefixtures("source", "backend")
def test_finished_job_is_told_again(runner: CliRunner) -> None:
    """A run with nothing to do tells what the job had done."""
    arguments = ["run", "in.jsonl", "-q", "--max-failures", "1", "--summary", "json"]
    first, second = (runner.invoke(aobatch, arguments).stderr for _ in range(2))

    assert json.loads(first) == json.loads(second)


@pytest.mark.usefixtures("source", "backend")
@pytest.mark.parametrize("option", ["--summary-file", "--metrics-file"])
def test_places_that_do_not_exist_are_refused_first(runner: CliRunner, option: str) -> None:
    """Nothing is computed for a run whose end could not be told."""
    result = runner.invoke(aobatch, ["run", "in.jsonl", option, "no/such"])

    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"folder no of {option} does not exist" in line
    assert not Path("in.out.jsonl").exists()


@pytest.mark.usefixtures("source", "backend")
def test_summary_that_cannot_be_written_fails_the_run(runner: CliRunner) -> None:
    """Who waits for the file is not left to believe that all is well."""
    Path("s.json").mkdir()
    arguments = ["run", "in.jsonl", "-q", "--max-failures", "1", "--summary=json"]
    result = runner.invoke(aobatch, [*arguments, "--summary-file", "s.json"])

    assert result.exit_code == 73
    assert json.loads(result.stderr.splitlines()[-1])["exit_code"] == 73


def test_mounted_file_is_written_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that cannot be replaced, as one that a container mounts, is filled."""
    path = tmp_path / "termination-log"
    path.touch()

    def refuse(_self: Path, _target: Path) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(Path, "replace", refuse)
    module.write_anywhere(path, b"done")

    assert path.read_bytes() == b"done"
