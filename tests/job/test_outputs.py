"""Laws of outputs: their names follow from a template, the inputs and the day of the job."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from fakes import FakeBackend
from job_files import requests, write_input

from aobatch.errors import StorageError, UsageError
from aobatch.formats.remote import Location, Remote, parse_location
from aobatch.job.config import STREAM, JobConfig, Selection, Shard
from aobatch.job.paths import Targets, plan_jobs
from aobatch.job.runner import run_job

DAY = 86_400


def plan(
    inputs: list[str],
    output: str | None,
    errors: str | None = None,
    shard: Shard = Shard(),  # noqa: B008 - it is frozen
) -> list[JobConfig]:
    """Plan the jobs of some inputs."""
    locations = tuple(parse_location(name) for name in inputs)
    targets = Targets(
        output and parse_location(output),  # type: ignore[arg-type]
        errors and parse_location(errors),  # type: ignore[arg-type]
    )
    return plan_jobs(JobConfig(locations, Path(), selection=Selection(shard=shard)), targets)


@pytest.mark.parametrize(
    ("source", "template", "output"),
    [
        ("in/a.jsonl.gz", None, "in/a.out.jsonl.gz"),
        ("in/a.jsonl.gz", "{dir}/{stem}.out{ext}", "in/a.out.jsonl.gz"),
        ("in/a.b.parquet", "out/{stem}-{date}{ext}", "out/a.b-2023-11-14.parquet"),
        ("a.jsonl", "{shard}-of-{shards}.jsonl", "00000-of-00001.jsonl"),
        ("a.jsonl", "{{x}}.jsonl", "{x}.jsonl"),
        ("a.jsonl", "{dir}/x.jsonl", "x.jsonl"),
        ("-", None, "-"),
        ("in/{stem}{.jsonl", None, "in/{stem}{.out.jsonl"),
        ("-", "{stem}{ext}", "stdin.jsonl"),
        ("file:///tmp/a%20b.jsonl", "{dir}/{stem}.out{ext}", "/tmp/a b.out.jsonl"),
    ],
)
def test_templates_are_filled(source: str, template: str | None, output: str) -> None:
    """Each field stands for its part of the input, the day or the shard."""
    assert [job.output for job in plan([source], template)] == [Path(output)]


@pytest.mark.parametrize(
    ("source", "template", "output"),
    [
        ("s3://b/in/a.jsonl?region=x", None, "s3://b/in/a.out.jsonl?region=x"),
        ("s3://b/in/a.jsonl", "{dir}/{stem}.out{ext}", "s3://b/in/a.out.jsonl"),
        ("s3://b/{in}/a.jsonl", None, "s3://b/{in}/a.out.jsonl"),
        ("in/a b.jsonl", "gs://b/{stem}{ext}", "gs://b/a%20b.jsonl"),
        ("s3://b/a%20b.jsonl", "s3://b/out/{stem}{ext}", "s3://b/out/a%20b.jsonl"),
    ],
)
@pytest.mark.usefixtures("work_folder")
def test_remote_outputs_are_written_here_first(
    source: str, template: str | None, output: str
) -> None:
    """The job's own files are local, and are to be uploaded under the names asked for, OUT last."""
    (job,) = plan([source], template)

    assert job.published == Remote(output)
    assert job.uploads[-1] == (job.output, Remote(output))
    assert job.output.parts[0] == "aobatch-state"
    assert job.output.parent.is_dir()
    assert [path.name for path, _ in job.uploads] == [
        f"{job.output.name}.usage.json",
        job.output.name,
    ]


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("work_folder")
def test_remote_outputs_share_no_state() -> None:
    """Objects of one name in two folders have state of their own, wherever it is kept."""
    jobs = plan(["a.jsonl"], "s3://b/one/x.jsonl") + plan(["a.jsonl"], "s3://b/two/x.jsonl")

    assert len({job.output for job in jobs}) == 2
    targets = Targets(Remote("s3://key:secret@b/x.jsonl"), state_dir=Path("mine"))
    (job,) = plan_jobs(JobConfig((Path("a.jsonl"),), Path()), targets)
    assert job.output.parts[0] == "mine"
    assert "secret" not in f"{job.output} {job.published}"


def test_each_input_has_its_output() -> None:
    """A template of the input's parts makes a job of each input, any other one job of all."""
    jobs = plan(["x/a.jsonl", "x/b.parquet"], "out/{stem}{ext}", "out/{stem}.errors.jsonl")

    assert [(job.inputs, job.output, job.errors) for job in jobs] == [
        ((Path("x/a.jsonl"),), Path("out/a.jsonl"), Path("out/a.errors.jsonl")),
        ((Path("x/b.parquet"),), Path("out/b.parquet"), Path("out/b.errors.jsonl")),
    ]
    (job,) = plan(["x/a.jsonl", "x/b.parquet"], "out/{date}.jsonl")
    assert job.inputs == (Path("x/a.jsonl"), Path("x/b.parquet"))


@pytest.mark.parametrize(
    ("inputs", "output", "errors", "words"),
    [
        (["a.jsonl", "b.jsonl"], None, None, "several inputs go into one output"),
        (["x/a.jsonl", "y/a.jsonl"], "{stem}.jsonl", None, "would both write a.jsonl"),
        (["a.jsonl", "b.jsonl"], "{stem}.jsonl", "e.jsonl", "would both write e.jsonl"),
        (["a.jsonl"], "{name}.jsonl", None, r"unknown field \{name\}; known are \{dir\}, \{stem\}"),
        (["a.jsonl"], "{date:%Y}.jsonl", None, "unknown field"),
        (["a.jsonl"], "{}.jsonl", None, "unknown field"),
        (["a.jsonl"], "{stem.jsonl", None, "is no template"),
        (["a.jsonl"], "out.jsonl", "s3://b/e.jsonl", "needs an --output that is a URI too"),
    ],
)
def test_what_cannot_be_named_is_refused(
    inputs: list[str], output: str | None, errors: str | None, words: str
) -> None:
    """Two files of one name and unknown fields are errors of usage."""
    with pytest.raises(UsageError, match=words):
        plan(inputs, output, errors)


def test_errors_in_the_output_are_told_by_their_own_name(tmp_path: Path) -> None:
    """One input does not collide with itself: it is --errors that has to change."""
    source = write_input(tmp_path / "in.jsonl", requests(["a"]))
    (job,) = plan([str(source)], str(tmp_path / "x.jsonl"), str(tmp_path / "x.jsonl"))

    with pytest.raises(UsageError, match="is also the output; name another file with --errors"):
        run_job(job, FakeBackend())


def test_state_dir_is_for_remote_outputs() -> None:
    """The state of a local output stands beside it, where the next run looks."""
    targets = Targets(Path("out.jsonl"), state_dir=Path("x"))
    with pytest.raises(UsageError, match="state-dir is for an output that is a URI"):
        plan_jobs(JobConfig((Path("a.jsonl"),), Path()), targets)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that sets the time."""
    monkeypatch.delenv("SOURCE_DATE_EPOCH")

    def set_time(seconds: float) -> None:
        monkeypatch.setattr("time.time", lambda: seconds)

    return set_time


def test_resume_over_midnight_keeps_the_day(tmp_path: Path, clock: Callable[[float], None]) -> None:
    """An interrupted job goes on under its day; finished, or with a new input, it has a new one."""
    source = write_input(tmp_path / "in.jsonl", requests(["a", "b", "c", "d"]))
    template = tmp_path / "{date}.jsonl"
    noon = 1_700_000_000.0 // DAY * DAY + DAY / 2
    os.utime(source, (noon - 60, noon - 60))
    config = JobConfig((source,), Path())

    def output() -> Location:
        (job,) = plan_jobs(config, Targets(template))
        return job.output

    clock(noon)
    first = output()
    broken = FakeBackend(explosion=StorageError("stop"), explodes_at=2)
    with pytest.raises(StorageError):
        run_job(replace(config, output=first), broken)
    clock(noon + DAY)
    assert output() == first
    os.utime(source, (noon + 60, noon + 60))
    assert output() != first
    os.utime(source, (noon - 60, noon - 60))
    run_job(replace(config, output=output()), FakeBackend())
    assert output() != first


def test_shards_have_names_of_their_own() -> None:
    """By default, and by a template that says which of them it is."""
    names = [None, "x/{shard}-of-{shards}{ext}"]
    jobs = [job for name in names for job in plan(["a.jsonl"], name, shard=Shard(2, 8))]

    assert [str(job.output) for job in jobs] == [
        "a.out-00002-of-00008.jsonl",
        "x/00002-of-00008.jsonl",
    ]


def test_stream_has_no_file_of_its_own() -> None:
    """Answers to standard output name no other file."""
    (job,) = plan(["a.jsonl"], "-")

    assert (job.output, job.published) == (STREAM, STREAM)
