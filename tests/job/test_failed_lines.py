"""Laws of the file of failed lines: it holds them, whole and in order, once the output is there."""

import gzip
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import PROMPTS, requests, run, write_input

from aobatch.errors import OutputError, StorageError, UsageError
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.runner import run_job

LINES = [*requests(PROMPTS), b"nonsense", {"prompt": "x", "n": 0}]


def failed(folder: Path) -> list[bytes]:
    """Give the output lines that are errors."""
    return [line for line in (folder / "out.jsonl").read_bytes().splitlines() if b'"error"' in line]


def test_failed_lines_are_those_of_the_output(tmp_path: Path) -> None:
    """Every failed line stands in both files, of whatever format, and no other."""
    write_input(tmp_path / "in.jsonl", LINES)

    run(tmp_path, errors=tmp_path / "bad.jsonl.gz")
    run(tmp_path, errors=tmp_path / "bad.parquet")

    lines = gzip.decompress((tmp_path / "bad.jsonl.gz").read_bytes()).splitlines()
    assert lines == failed(tmp_path)
    assert len(lines) == 3
    rows = pq.read_table(tmp_path / "bad.parquet").to_pylist()
    assert [row["response"].encode() for row in rows] == lines
    assert {path.name for path in tmp_path.iterdir()} == {
        *("in.jsonl", "out.jsonl", "out.jsonl.aobatch", "out.jsonl.usage.json"),
        *("bad.jsonl.gz", "bad.parquet"),
    }


def test_without_failures_the_file_is_empty(tmp_path: Path) -> None:
    """Its being there says that the job is finished, not that something failed."""
    write_input(tmp_path / "in.jsonl", requests(["a"]))

    run(tmp_path, errors=tmp_path / "bad.jsonl")

    assert (tmp_path / "bad.jsonl").read_bytes() == b""


def test_the_file_belongs_to_the_finished_job(tmp_path: Path) -> None:
    """A finished job that lacks it, or whose file was changed, writes it without a model."""
    write_input(tmp_path / "in.jsonl", LINES)
    run(tmp_path)
    path = tmp_path / "bad.jsonl"
    for damage in (lambda: None, path.unlink, lambda: path.write_bytes(b"")):
        damage()
        backend = FakeBackend()
        assert not run(tmp_path, backend, errors=path).was_finished
        assert backend.opened == []
        assert path.read_bytes().splitlines() == failed(tmp_path)
    assert run(tmp_path, errors=path).was_finished


def test_unfinished_job_leaves_the_file_alone(tmp_path: Path) -> None:
    """It changes with the output, not before."""
    write_input(tmp_path / "in.jsonl", LINES)
    path = tmp_path / "bad.jsonl"
    path.write_bytes(b"old\n")
    broken = FakeBackend(explosion=StorageError("stop"), explodes_at=3)

    with pytest.raises(StorageError):
        run(tmp_path, broken, errors=path)

    assert path.read_bytes() == b"old\n"


def test_answers_to_standard_output_have_it_too(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """Failed lines go to both."""
    source = write_input(tmp_path / "in.jsonl", LINES)

    run_job(JobConfig((source,), STREAM, errors=tmp_path / "bad.jsonl"), FakeBackend())

    lines = capsysbinary.readouterr().out.splitlines()
    assert [line for line in lines if b'"error"' in line] == (
        (tmp_path / "bad.jsonl").read_bytes().splitlines()
    )


def test_wrong_names_are_refused(tmp_path: Path) -> None:
    """The file must be no other of the job, and one that can be written."""
    write_input(tmp_path / "in.jsonl", LINES)

    with pytest.raises(UsageError, match="is also the output"):
        run(tmp_path, errors=tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="is also an input; name another file with --errors"):
        run(tmp_path, errors=tmp_path / "in.jsonl")
    with pytest.raises(UsageError, match="has no known suffix"):
        run(tmp_path, errors=tmp_path / "bad.txt")
    with pytest.raises(OutputError, match="does not exist; create it"):
        run(tmp_path, errors=tmp_path / "no" / "bad.jsonl")
