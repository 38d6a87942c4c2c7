"""Laws of inputs that go away, change, are empty or no files at all."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, Watch, run_reference
from waiting import HANG_SECONDS, wait_until

LINES = b"".join(b'{"prompt":"number %d"}\n' % number for number in range(30))


def new_job(folder: Path, pace: str = "0", *, is_piped: bool = False) -> CrashJob:
    """Give a job of the fake backend."""
    folder.mkdir()
    job = CrashJob(folder, pace, is_piped=is_piped)
    job.source.write_bytes(LINES)
    return job


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run the job while nothing happens to its input."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job"))


def wait_until_taken(job: CrashJob, process: subprocess.Popen[bytes]) -> None:
    """Wait until a run computes."""
    wait_until(lambda: len(job.taken()) >= 3, process)


def remove(source: Path) -> None:
    """Remove the input."""
    source.unlink()


def append(source: Path) -> None:
    """Add a line."""
    with source.open("ab") as stream:
        stream.write(b'{"prompt":"added"}\n')


def shorten(source: Path) -> None:
    """Cut the input in the middle of a line."""
    os.truncate(source, len(LINES) // 2 + 5)


def empty(source: Path) -> None:
    """Cut everything."""
    os.truncate(source, 0)


def replace_one(source: Path) -> None:
    """Change one character that was read already."""
    source.write_bytes(LINES.replace(b"number 0", b"number A"))


@pytest.mark.parametrize(
    ("happen", "code"),
    [(remove, 66), (append, 65), (shorten, 65), (empty, 65), (replace_one, 65)],
)
def test_input_that_changes_is_not_published(
    memory: Path, reference: Reference, happen: Callable[[Path], None], code: int
) -> None:
    """The run says so and publishes nothing; with the input restored the next one goes on."""
    gate = memory / "gate"
    job = new_job(memory / "job", f"held 3 {gate}")
    watch = Watch(job, reference)
    with job.start() as process:
        wait_until_taken(job, process)
        happen(job.source)
        gate.touch()
        assert process.wait(HANG_SECONDS) in {code, 65}
    said = job.messages.read_text()
    assert said.splitlines()[-1].startswith(f"aobatch: error: input {job.source} "), said
    assert "Traceback" not in said
    watch.check_death(0)
    assert watch.recorded

    job.source.write_bytes(LINES)
    start = job.log_size()
    assert job.run() == 0, job.messages.read_text()
    watch.check_end(start)


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf \r\n\n\t\n"])
@pytest.mark.parametrize("is_piped", [False, True])
def test_no_requests_are_a_job_too(memory: Path, content: bytes, *, is_piped: bool) -> None:
    """An input without a request gives an empty output and a report of noughts, with code 0."""
    job = new_job(memory / "job", is_piped=is_piped)
    job.source.write_bytes(content)

    for _ in range(2):
        assert job.run() == 0, job.messages.read_text()
        assert job.output.read_bytes() == b""
        report = json.loads(job.output.with_name("out.jsonl.usage.json").read_bytes())
        assert report["requests"]["total"] == 0
        assert report["usage"]["total_tokens"] == 0


def make_pipe(path: Path) -> None:
    """Make a pipe."""
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    """Make a folder."""
    path.mkdir()


def make_loop(path: Path) -> None:
    """Make a link to itself."""
    path.symlink_to(path)


def make_nothing(_path: Path) -> None:
    """Make nothing."""


@pytest.mark.parametrize(
    ("make", "code", "words"),
    [
        (make_pipe, 65, "is not a regular file; pipe it in"),
        (make_folder, 66, "holds no file of requests"),
        (make_loop, 65, "cannot be read: Too many levels of symbolic links"),
        (make_nothing, 66, "does not exist"),
    ],
)
def test_inputs_that_are_no_files_are_refused(
    memory: Path, make: Callable[[Path], None], code: int, words: str
) -> None:
    """What could not be read twice, or holds nothing, is refused at once, and nothing is made."""
    job = new_job(memory / "job")
    job.source.unlink()
    make(job.source)
    before = job.names()

    assert job.run() == code
    said = job.messages.read_text()
    assert said.startswith(f"aobatch: error: input {job.source} ")
    assert words in said
    assert len(said.splitlines()) == 1
    assert job.names() == before


def test_names_need_not_be_text(memory: Path, reference: Reference) -> None:
    """A file whose name is no UTF-8 is read, and its output is written beside it."""
    job = new_job(memory / os.fsdecode(b"j\xff b\n"))

    assert job.run() == 0, job.messages.read_bytes()
    assert job.output.read_bytes() == reference.output


def test_piped_input_that_broke_off_is_read_anew(memory: Path, reference: Reference) -> None:
    """A run that is killed while it reads standard input leaves nothing that misleads the next."""
    job = new_job(memory / "job", is_piped=True)
    with subprocess.Popen(job.command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdin is not None
        process.stdin.write(LINES[: len(LINES) // 2])
        process.stdin.flush()
        wait_until(lambda: [*job.state.glob(".*.tmp")], process)
        process.kill()

    assert job.run() == 0, job.messages.read_text()
    assert job.output.read_bytes() == reference.output
    assert job.names() == reference.names
