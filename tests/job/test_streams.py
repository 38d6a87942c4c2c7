"""Laws of standard input and output, of compressed files and of places that cannot be written."""

import io
import json
import sys
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import PROMPTS, requests, write_input

from aobatch.errors import InputError, InputMissingError, JobError, OutputError, UsageError
from aobatch.formats import read_rows
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.runner import run_job


class Standard:
    """A standard input of bytes."""

    def __init__(self, content: bytes = b"") -> None:
        self.buffer = io.BytesIO(content)

    def isatty(self) -> bool:
        """Be no terminal, unless there is nothing to read."""
        return not self.buffer.getvalue()


def pipe_in(monkeypatch: pytest.MonkeyPatch, prompts: list[str]) -> None:
    """Put requests on standard input."""
    content = "".join(json.dumps(request) + "\n" for request in requests(prompts))
    monkeypatch.setattr(sys, "stdin", Standard(content.encode()))


def texts(content: bytes) -> list[str]:
    """Read the texts of output lines."""
    return [json.loads(line)["choices"][0]["text"] for line in content.splitlines()]


def test_standard_input_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines piped in again go on where the first run stopped, and then do nothing."""
    config = JobConfig((STREAM,), tmp_path / "out.jsonl")
    backends = [FakeBackend(explosion=KeyboardInterrupt(), explodes_at=2), FakeBackend()]
    pipe_in(monkeypatch, ["a", "b", "c", "d"])
    with pytest.raises(KeyboardInterrupt):
        run_job(config, backends[0])
    pipe_in(monkeypatch, ["a", "b", "c", "d"])
    run_job(config, backends[1])
    pipe_in(monkeypatch, ["a", "b", "c", "d"])

    assert run_job(config, FakeBackend()).was_finished
    assert [len(backend.computed) for backend in backends] == [2, 2]
    assert texts((tmp_path / "out.jsonl").read_bytes()) == ["[a]", "[b]", "[c]", "[d]"]


def test_damaged_standard_input_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that keeps it meanwhile is nothing that its user has named."""
    monkeypatch.setattr(sys, "stdin", Standard(b"no table"))
    config = JobConfig((STREAM,), tmp_path / "out.jsonl", stream_format="parquet")

    with pytest.raises(InputError, match=r"^standard input cannot be read to its end as Parquet"):
        run_job(config, FakeBackend())


def test_standard_output_gets_lines_in_order(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A file into a pipe leaves nothing beside the input."""
    source = write_input(tmp_path / "in.jsonl", requests(["a", "b", "c", "d"]))

    report = run_job(JobConfig((source,), STREAM), FakeBackend()).report

    assert texts(capsysbinary.readouterr().out) == ["[a]", "[b]", "[c]", "[d]"]
    assert report.requests.total == 4
    assert [*tmp_path.iterdir()] == [source]


def test_pipe_to_pipe_leaves_nothing(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter keeps its state outside the working folder and drops it at the end."""
    monkeypatch.chdir(tmp_path)
    pipe_in(monkeypatch, ["a", "b"])

    run_job(JobConfig((STREAM,), STREAM), FakeBackend())

    assert texts(capsysbinary.readouterr().out) == ["[a]", "[b]"]
    assert [*tmp_path.iterdir()] == []


def test_standard_output_job_can_be_resumed(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    """A job that prints prints nothing before it has all results, and keeps those it has."""
    config = JobConfig((write_input(tmp_path / "in.jsonl", requests(["a", "b", "c"])),), STREAM)
    with pytest.raises(KeyboardInterrupt):
        run_job(config, FakeBackend(explosion=KeyboardInterrupt(), explodes_at=2))
    assert capsysbinary.readouterr().out == b""

    backend = FakeBackend()
    run_job(config, backend)

    assert texts(capsysbinary.readouterr().out) == ["[a]", "[b]", "[c]"]
    assert len(backend.computed) == 1


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_output_holds_the_same_lines(tmp_path: Path, suffix: str) -> None:
    """The suffix of the output decides how it is written, not what."""
    source = write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    outputs = [tmp_path / "plain.jsonl", tmp_path / f"packed.jsonl{suffix}"]

    for output in outputs:
        run_job(JobConfig((source,), output), FakeBackend())

    plain, packed = ([row.raw for row in read_rows(output)] for output in outputs)
    assert plain == packed
    assert len(plain) == len(PROMPTS)


@pytest.mark.parametrize(
    ("source", "output", "error", "words"),
    [
        ("no.jsonl", "out.jsonl", InputMissingError, "no.jsonl does not exist"),
        ("in.jsonl", "in.jsonl", UsageError, "is also an input"),
        ("in.jsonl", "no/out.jsonl", OutputError, "no of the output does not exist; create it"),
        ("folder.jsonl", "out.jsonl", InputError, "is a folder"),
        ("in.jsonl", "folder.jsonl", OutputError, "is a folder; name a file in it"),
        ("in.jsonl", "out.txt", UsageError, "no known suffix"),
        ("in.jsonl", "in.jsonl/x.jsonl", OutputError, "does not exist"),
        ("in.jsonl", f"{'x' * 235}.jsonl", OutputError, "usage.json cannot be created: File name"),
    ],
)
def test_impossible_jobs_open_no_model(
    tmp_path: Path, source: str, output: str, error: type[JobError], words: str
) -> None:
    """What cannot be read or published is refused before anything is computed."""
    write_input(tmp_path / "in.jsonl", requests(PROMPTS))
    (tmp_path / "folder.jsonl").mkdir()
    before = {*tmp_path.iterdir()}
    backend = FakeBackend()

    with pytest.raises(error, match=words):
        run_job(JobConfig((tmp_path / source,), tmp_path / output), backend)

    assert backend.opened == []
    assert {*tmp_path.iterdir()} == before


def test_terminal_is_no_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that waits for a person to type requests says so instead."""
    monkeypatch.setattr(sys, "stdin", Standard())

    with pytest.raises(UsageError, match="pipe requests in"):
        run_job(JobConfig((STREAM,), tmp_path / "out.jsonl"), FakeBackend())


def test_state_folder_in_the_way_is_an_output_error(tmp_path: Path) -> None:
    """A file under the name of the state folder is not overwritten."""
    source = write_input(tmp_path / "in.jsonl", requests(["a"]))
    (tmp_path / "out.jsonl.aobatch").write_text("mine")

    with pytest.raises(OutputError, match="File exists"):
        run_job(JobConfig((source,), tmp_path / "out.jsonl"), FakeBackend())


def test_output_link_stays_a_link(tmp_path: Path) -> None:
    """An output that is a symbolic link is published where it points to."""
    source = write_input(tmp_path / "in.jsonl", requests(["a"]))
    (tmp_path / "store").mkdir()
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "store" / "real.jsonl")

    run_job(JobConfig((source,), tmp_path / "out.jsonl"), FakeBackend())

    assert (tmp_path / "out.jsonl").is_symlink()
    assert texts((tmp_path / "store" / "real.jsonl").read_bytes()) == ["[a]"]


def test_bad_source_date_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOURCE_DATE_EPOCH that is no number is an error of usage."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    source = write_input(tmp_path / "in.jsonl", requests(["a"]))

    with pytest.raises(UsageError, match="'yesterday'"):
        run_job(JobConfig((source,), tmp_path / "out.jsonl"), FakeBackend())
