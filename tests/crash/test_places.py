"""Laws of outputs in the wrong place: refused at once, with 73 or 2, and no trace left."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, run_reference
from other_users import NOBODY_IN_PARTICULAR, as_stranger
from small_rooms import small_room

LINES = b'{"prompt":"a"}\n{"prompt":"b","user":"ada"}\nnonsense\n'


def new_job(folder: Path) -> CrashJob:
    """Give a job of the fake backend."""
    folder.mkdir(exist_ok=True)
    job = CrashJob(folder, "0")
    job.source.write_bytes(LINES)
    return job


@pytest.fixture
def job(tmp_path: Path) -> CrashJob:
    """Give a job of the fake backend."""
    return new_job(tmp_path / "job")


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Run the same job where nothing is wrong."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job"))


def make_folder(path: Path) -> None:
    """Put a folder where the output is to be."""
    path.mkdir()


def make_pipe(path: Path) -> None:
    """Put a pipe where the output is to be."""
    os.mkfifo(path)


def make_device(path: Path) -> None:
    """Put a name of a device where the output is to be."""
    path.symlink_to("/dev/null")


def make_loop(path: Path) -> None:
    """Put a link to itself where the output is to be."""
    path.symlink_to(path)


def make_input(path: Path) -> None:
    """Put the input where the output is to be."""
    path.hardlink_to(path.with_name("in.jsonl"))


def make_state(path: Path) -> None:
    """Put a file where the state is to be."""
    path.with_name("out.jsonl.aobatch").touch()


@pytest.mark.parametrize(
    ("put", "code", "words"),
    [
        (make_folder, 73, "is a folder; name a file"),
        (make_pipe, 73, "is not a regular file"),
        (make_device, 73, "is not a regular file"),
        (make_loop, 73, "cannot be created"),
        (make_input, 2, "is also an input"),
        (make_state, 73, "cannot be created: File exists"),
    ],
)
def test_what_is_in_the_way_stays(
    job: CrashJob, put: Callable[[Path], None], code: int, words: str
) -> None:
    """An output that would replace what is no output is refused, and nothing is made beside it."""
    put(job.output)
    before = job.names()

    assert job.run() == code
    said = job.messages.read_text()
    assert words in said
    assert said.startswith("aobatch: error: ")
    assert str(job.output) in said
    assert len(said.splitlines()) == 1, said
    assert job.names() == before
    assert job.log_size() == 0


@pytest.mark.parametrize("name", ["no/out.jsonl", "in.jsonl/out.jsonl", "o" * 300 + ".jsonl"])
def test_places_that_cannot_be_are_refused(job: CrashJob, name: str) -> None:
    """A folder that is missing, a file in its place, a name that is too long: exit code 73."""
    before = job.names()
    elsewhere = CrashJob(job.folder, "0", ("--output", str(job.folder / name)))

    assert elsewhere.run() == 73
    assert len(job.messages.read_text().splitlines()) == 1
    assert job.names() == before


def test_folder_of_somebody_else_is_refused(job: CrashJob, reference: Reference) -> None:
    """Without the right to write beside the output nothing begins; with it the job runs."""
    job.folder.chmod(0o555)
    before = job.names()

    assert job.run(*as_stranger()) == 73
    said = job.messages.read_text()
    assert said.startswith(f"aobatch: error: {job.output} cannot be created: folder ")
    assert len(said.splitlines()) == 1
    assert job.names() == before

    job.folder.chmod(0o755)
    assert job.run() == 0
    assert job.output.read_bytes() == reference.output


def test_file_system_that_is_read_only_is_refused(tmp_path: Path, reference: Reference) -> None:
    """Nothing begins where nothing can be kept; a stopped job goes on when it can be again."""
    with small_room(tmp_path / "room", 2**20) as room:
        job = new_job(room.folder)
        room.forbid_writing()

        assert job.run() == 73
        assert "cannot be created: " in job.messages.read_text()
        room.widen()

        assert job.run() == 0, job.messages.read_text()
        assert job.output.read_bytes() == reference.output


def test_link_is_published_where_it_leads(job: CrashJob, reference: Reference) -> None:
    """A link to a file stays a link, whether the file is there already or not."""
    target = job.folder / "real.jsonl"
    job.output.symlink_to(target)
    for content in (None, b"old\n"):
        if content is not None:
            target.write_bytes(content)

        assert job.run() == 0, job.messages.read_text()
        assert job.output.is_symlink()
        assert target.read_bytes() == reference.output


def test_new_files_obey_the_umask(job: CrashJob, reference: Reference) -> None:
    """Under umask 077 nobody else can read what a job leaves."""
    assert job.run("sh", "-c", 'umask 077; exec "$@"', "sh") == 0
    assert job.output.read_bytes() == reference.output
    new = [path for path in job.folder.rglob("*") if path != job.source]
    assert {oct(path.stat().st_mode & 0o077) for path in new} == {"0o0"}


def test_stranger_without_a_home_runs_a_job(job: CrashJob, reference: Reference) -> None:
    """A user whom no list knows, without HOME, gets the output."""
    if os.geteuid() == 0:
        for path in (job.folder, job.source):
            os.chown(path, NOBODY_IN_PARTICULAR, NOBODY_IN_PARTICULAR)
    job.log.touch()
    job.log.chmod(0o666)

    assert job.run("env", "-u", "HOME", *as_stranger()) == 0, job.messages.read_text()
    assert job.output.read_bytes() == reference.output
    report = json.loads(job.output.with_name("out.jsonl.usage.json").read_bytes())
    assert report["requests"]["total"] == 3
