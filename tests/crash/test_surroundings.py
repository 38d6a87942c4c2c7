"""Laws of poor surroundings: closed streams, few descriptors, no temporary folder, plain locale."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from crash_job import CrashJob
from crash_laws import Reference, report_of, run_reference
from request_mix import mixed_lines
from small_rooms import small_room

from aobatch.models.store.folder import ModelFolder

PROMPT = '{"prompt":"春天 of the sea","max_tokens":4,"echo":true}\n'


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, tiny_int8: ModelFolder) -> Reference:
    """Run the job in good surroundings."""
    return run_reference(new_job(tmp_path_factory.mktemp("reference") / "job", tiny_int8))


@pytest.fixture
def job(tmp_path: Path, tiny_int8: ModelFolder) -> CrashJob:
    """Give a job of the real command."""
    return new_job(tmp_path / "jöb", tiny_int8)


def new_job(folder: Path, model: ModelFolder) -> CrashJob:
    """Give a small job with letters of many languages."""
    folder.mkdir()
    # Without a folder of the user's own there are no fused operators, whose bits are others.
    job = CrashJob(folder, "real", ("--model", str(model.path), "--kernels", "stock"))
    job.source.write_bytes(PROMPT.encode() + mixed_lines(12, 8, num_bad=3))
    return job


def shell(script: str) -> tuple[str, ...]:
    """Give a shell that executes a script, whose "$@" is the command."""
    return ("sh", "-c", script, "sh")


NOWHERE = ("HOME=/dev/null", "XDG_CACHE_HOME=/dev/null", "TMPDIR=/nowhere/at/all")
SURROUNDINGS = {
    "no standard input": shell('exec "$@" <&-'),
    "no standard output": shell('exec "$@" >&-'),
    "no standard error": shell('exec "$@" 2>&-'),
    "no streams, no session": ("setsid", "--wait", *shell('exec "$@" <&- >&- 2>&-')),
    "full streams": shell('exec "$@" >/dev/full 2>/dev/full'),
    "32 descriptors": shell('ulimit -n 32; exec "$@"'),
    "no environment": ("env", "-u", "HOME", "-u", "USER", "LC_ALL=C", "PATH=/nowhere", "TZ=No/Way"),
    "no folders": ("env", *NOWHERE),
    "ASCII alone": ("env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"),
}
PAIRS = (
    ("no standard input", "32 descriptors"),
    ("no standard output", "ASCII alone"),
    ("no standard error", "no folders"),
    ("no streams, no session",),
    ("full streams", "no environment"),
)
"""Each of them once, in few runs."""
ALONE = [pytest.param((n,), marks=pytest.mark.long) for pair in PAIRS if pair[1:] for n in pair]


@pytest.mark.parametrize(
    "names",
    [*PAIRS, *ALONE],
    ids=", ".join,
)
def test_poor_surroundings_change_nothing(
    job: CrashJob, reference: Reference, names: tuple[str, ...]
) -> None:
    """The job ends with 0, and output, report, streams and files are as anywhere else."""
    before = [word for name in names for word in SURROUNDINGS[name]]

    assert job.run(*before) == 0, job.messages.read_text()

    assert job.output.read_bytes() == reference.output
    assert report_of(job) == reference.report
    assert job.streams() == reference.streams
    assert job.names() == reference.names


def test_nothing_is_written_elsewhere(job: CrashJob, reference: Reference, tmp_path: Path) -> None:
    """What a job writes lies beside its output, also what its libraries like to leave at home."""
    home = tmp_path / "home"
    home.mkdir()
    with small_room(tmp_path / "tmp", 4096) as room:
        (room.folder / "filling").write_bytes(b"x" * 4096)
        places = (f"TMPDIR={room.folder}", f"HOME={home}", f"XDG_CACHE_HOME={home}/cache")

        assert job.run("env", *places) == 0, job.messages.read_text()
        assert [path.name for path in room.folder.iterdir()] == ["filling"]
    assert not [*home.iterdir()]
    assert job.output.read_bytes() == reference.output


def test_too_few_descriptors_are_told(job: CrashJob, reference: Reference) -> None:
    """Where not all files can be open at once, the job says which one, and goes on elsewhere."""
    assert job.run(*shell('ulimit -n 10; exec "$@"')) in {65, 74}
    said = job.messages.read_text()
    errors = [line for line in said.splitlines() if line.startswith("aobatch: error: ")]
    assert len(errors) == 1, said
    assert "Too many open files" in errors[0] or "unable to open" in errors[0]
    assert str(job.folder) in errors[0]
    assert "Traceback" not in said

    assert job.run() == 0, job.messages.read_text()
    assert job.output.read_bytes() == reference.output


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])
def test_full_standard_output_is_told(
    job: CrashJob, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers that standard output does not take end the run with 74, and can be had again."""
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    elsewhere = CrashJob(job.folder, "0", ("--output", "-"))

    assert elsewhere.run(*shell('exec "$@" >/dev/full')) == 74
    said = elsewhere.messages.read_text()
    assert said.splitlines()[-1] == (
        "aobatch: error: standard output cannot be written: No space left on device; "
        "make room and run again"
    )

    monkeypatch.delenv("PYTHONUNBUFFERED")
    assert replace(elsewhere, options=(*elsewhere.options, "--quiet")).run() == 0
    answers = elsewhere.messages.read_text(encoding="utf-8").splitlines()
    assert len(answers) == len(job.source.read_bytes().splitlines())
    assert json.loads(answers[0])["choices"][0]["text"].startswith("[春天 of the sea")
