"""Laws of `aobatch run` over many files, tables and stores."""

import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from fakes import FakeBackend

from aobatch.cli.main import aobatch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with two inputs of lines and a table, one line of which is bad."""
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"prompt":"a"}\n')
    (folder / "b.jsonl").write_text('{"prompt":"b"}\nnonsense\n')
    pq.write_table(pa.table({"text": ["c"], "label": [1.5]}), folder / "c.parquet")
    return folder


@pytest.mark.usefixtures("folder")
def test_patterns_go_into_one_output(runner: CliRunner, backend: FakeBackend) -> None:
    """A quoted pattern is expanded, failed lines are written apart, and a second run finds all."""
    arguments = ["run", "in/*.jsonl", "-o", "in/all.jsonl", "--errors", "in/bad.jsonl"]

    for _ in range(2):
        result = runner.invoke(aobatch, arguments)
        assert result.exit_code == 1, result.output

    lines = Path("in/all.jsonl").read_bytes().splitlines()
    assert len(lines) == 3
    assert Path("in/bad.jsonl").read_bytes().splitlines() == [lines[2]]
    assert "in/all.jsonl was finished already" in result.stderr
    assert len(backend.computed) == 2


@pytest.mark.usefixtures("folder")
def test_each_file_of_a_folder_has_its_output(runner: CliRunner, backend: FakeBackend) -> None:
    """A template with {stem} runs a job for each file; their failures count together."""
    arguments = ["run", "in/", "-o", "{dir}/{stem}.out{ext}", "--column", "prompt=text"]

    first = runner.invoke(aobatch, [*arguments, "--max-failures", "1"])
    second = runner.invoke(aobatch, arguments)

    assert (first.exit_code, second.exit_code) == (0, 1)
    assert "1 of 4 lines failed" in second.stderr
    assert second.stderr.count("was finished already") == 3
    names = {path.name for path in Path("in").glob("*.out.*") if path.is_file()}
    assert {"a.out.jsonl", "b.out.jsonl", "c.out.parquet"} <= names
    assert pq.read_table("in/c.out.parquet").column("text").to_pylist() == ["[c]"]
    assert len(backend.computed) == 3


@pytest.mark.usefixtures("backend", "folder")
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["in/c.parquet"], 65, "columns that are no field of a request: text, label"),
        (["in/c.parquet", "--column", "prompt=label"], 65, "is of type double"),
        (["in/c.parquet", "--column", "promt=text"], 2, "did you mean 'prompt'?"),
        (["in/c.parquet", "--column", "prompt"], 2, "is not FIELD=NAME"),
        (["in/c.parquet", "--column", "prompt=text", "--column", "prompt=label"], 2, "two columns"),
        (["in/a.jsonl", "--column", "prompt=text"], 2, "no input is one"),
        (["in/a.jsonl", "-o", "{name}.jsonl"], 2, "unknown field {name}; known are {dir}"),
        (["in/"], 2, "name it with --output"),
        (["", "-o", "x.jsonl"], 2, "the name is empty"),
        (["in/a.jsonl", "-o", ""], 2, "the name is empty"),
        (["in/*.zip"], 66, "holds no file of requests"),
        (["in/a.jsonl", "--state-dir", "x"], 2, "is for an output that is a URI"),
        (["in/a.jsonl", "-o", "x.parquet.gz"], 2, "compressed inside"),
        (["fsspec+memory://none/a.jsonl"], 66, "input fsspec+memory://none/a.jsonl does not exist"),
        (["no://host/a.jsonl"], 65, "no://host/a.jsonl cannot be opened"),
    ],
)
def test_errors_say_what_to_do(
    runner: CliRunner, arguments: list[str], code: int, words: str
) -> None:
    """Each mistake has its sentence on standard error and its exit code."""
    result = runner.invoke(aobatch, ["run", *arguments])

    assert result.exit_code == code, result.output
    assert words in result.stderr


@pytest.mark.usefixtures("backend")
def test_jobs_of_a_store_are_found_by_their_uri(runner: CliRunner) -> None:
    """Status and report of a remote output are those of the state that is kept here."""
    memory = fsspec.filesystem("memory")
    memory.pipe("/aobatch-cli/a.jsonl", b'{"prompt":"a"}\n')
    output = "fsspec+memory://aobatch-cli/a.out.jsonl"
    try:
        result = runner.invoke(aobatch, ["run", "fsspec+memory://aobatch-cli/a.jsonl"])
        assert result.exit_code == 0, result.output
        assert f"answers in {output}, report in {output}.usage.json" in result.stderr
        assert memory.cat("/aobatch-cli/a.out.jsonl").count(b"\n") == 1
    finally:
        memory.rm("/aobatch-cli", recursive=True)

    status = runner.invoke(aobatch, ["status", output])
    report = runner.invoke(aobatch, ["report", output, "--json"])

    assert f"{output} is finished: 1 of 1 lines answered" in status.stdout
    assert json.loads(report.stdout)["requests"]["total"] == 1
    elsewhere = runner.invoke(aobatch, ["status", output, "--state-dir", "other"])
    assert elsewhere.exit_code == 66
