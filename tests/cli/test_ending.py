"""Laws of what a run of one job or several tells at its end, whichever way it ends."""

import json
import signal
import subprocess
from pathlib import Path

import pytest
from fake_command import COMMAND, Invoke
from fakes import FakeBackend

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
    command = [*COMMAND, "held 9", "run", source, "--summary=json", "--summary-file", target]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    assert process.stderr.readline() == "400 lines\n"
    process.send_signal(signal.SIGTERM)
    _, text = process.communicate()
    found = json.loads(text.splitlines()[-1])

    assert process.returncode == -signal.SIGTERM
    assert (found["state"], found["exit_code"], found["lines"]) == ("interrupted", 143, 400)
    assert found["answered"] < 10
    assert json.loads(target.read_text()) == found


@pytest.mark.usefixtures("source")
@pytest.mark.parametrize(
    ("error", "code", "state"),
    [(StorageError("full"), 74, "failed"), (ValueError("a defect"), 70, "failed")],
)
def test_errors_of_a_job_are_told(
    invoke: Invoke, backend: FakeBackend, error: Exception, code: int, state: str
) -> None:
    """What was answered before the error stands in the summary."""
    backend.explosion, backend.explodes_at = error, 5
    if code == 70:
        backend.open = lambda _model: (_ for _ in ()).throw(error)  # type: ignore[method-assign]
    result = invoke("run", "in.jsonl", "-q", "--summary", "json", code=code)

    found = json.loads(result.stderr.splitlines()[-1])
    assert (found["exit_code"], found["state"]) == (code, state)
    assert found["answered"] == (0 if code == 70 else 5)
    assert str(error) in found["message"]


@pytest.mark.usefixtures("source", "backend")
def test_finished_job_is_told_again(invoke: Invoke) -> None:
    """A run with nothing to do tells what the job had done."""
    arguments = ["run", "in.jsonl", "-q", "--max-failures", "1", "--summary", "json"]
    first, second = (invoke(*arguments).stderr for _ in range(2))

    assert json.loads(first) == json.loads(second)


@pytest.mark.usefixtures("source", "backend")
@pytest.mark.parametrize("option", ["--summary-file", "--metrics-file"])
def test_places_that_do_not_exist_are_refused_first(invoke: Invoke, option: str) -> None:
    """Nothing is computed for a run whose end could not be told."""
    result = invoke("run", "in.jsonl", option, "no/such", code=73)

    (line,) = result.stderr.splitlines()
    assert f"folder no of {option} does not exist" in line
    assert not Path("in.out.jsonl").exists()


@pytest.mark.usefixtures("source", "backend")
def test_summary_that_cannot_be_written_fails_the_run(invoke: Invoke) -> None:
    """Who waits for the file is not left to believe that all is well."""
    Path("s.json").mkdir()
    arguments = ["run", "in.jsonl", "-q", "--max-failures", "1", "--summary=json"]
    result = invoke(*arguments, "--summary-file", "s.json", code=73)

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
    invoke: Invoke, inputs: list[str], is_second_run: bool
) -> None:
    """What is true of all jobs together stands where that of one job does; each is listed."""
    for _ in range(1 + is_second_run):
        result = invoke("run", *inputs, *TEMPLATE, code=1)
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
def test_one_job_has_no_list(invoke: Invoke, inputs: list[str]) -> None:
    """The summary of one output is that output's."""
    result = invoke("run", inputs[0], *TEMPLATE, "--max-failures", "1")
    found = json.loads(result.stderr.splitlines()[-1])

    assert (found["output"], found["jobs"]) == ("a.out.jsonl", [])


def test_stopped_run_says_how_far_each_job_is(tmp_path: Path) -> None:
    """Jobs that were not begun are listed, without numbers."""
    for name, count in (("a", 10), ("b", 30), ("c", 1)):
        lines = "".join(f'{{"prompt":"{name}{number}"}}\n' for number in range(count))
        (tmp_path / f"{name}.jsonl").write_text(lines)
    command = [*COMMAND, "held 20", "run", "a.jsonl", "b.jsonl", "c.jsonl", *TEMPLATE]
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "b.out.jsonl.aobatch").exists():
        assert process.poll() is None

    process.send_signal(signal.SIGTERM)
    found = json.loads(process.communicate()[1].splitlines()[-1])

    assert process.returncode == -signal.SIGTERM
    first, second, third = found["jobs"]
    assert (first["answered"], third["answered"]) == (10, None)
    assert found["answered"] == 10 + (second["answered"] or 0) < 31


def test_dry_run_computes_and_writes_nothing(
    invoke: Invoke, backend: FakeBackend, inputs: list[str], tmp_path: Path
) -> None:
    """What is wrong is said as by `validate`, and the exit code is that of the run."""
    before = sorted(tmp_path.iterdir())
    for arguments, code in ((["--max-failures", "1"], 0), ([], 1)):
        result = invoke("run", "a.jsonl", "--dry-run", *arguments, code=code)

        assert "line 3: " in result.stdout
    checked = invoke("validate", "a.jsonl", code=1)

    assert checked.stdout == result.stdout
    files = ["--summary", "json", "--summary-file", "s.json", "--metrics-file", "m.prom"]
    told = invoke("run", "a.jsonl", "--dry-run", *files, code=1).stderr.splitlines()[-1]
    assert [json.loads(told)[name] for name in ("lines", "answered", "failed")] == [3, None, 1]
    assert (backend.opened, sorted(tmp_path.iterdir())) == ([], before)
