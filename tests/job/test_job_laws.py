"""Laws of whole jobs over made-up lines and stops."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import FakeBackend
from hypothesis import given, settings
from hypothesis import strategies as st
from job_files import run
from line_strategies import BODIES, JSON, NAMES, SAME, written
from mutations import mutated_lines

from aobatch.api.request import FailedLine
from aobatch.api.response import render_failure
from aobatch.job.config import JobConfig
from aobatch.job.source import Input, Source

OBJECTS = st.dictionaries(NAMES, JSON, max_size=6)
MUTATED = st.integers(0, 10**9).map(lambda seed: next(mutated_lines(seed, 1)))
RAWS = (
    st.builds(written, OBJECTS, st.integers(0, 9))
    | JSON.map(lambda value: written({"prompt": value}, 0))
    | MUTATED
    | st.binary(min_size=1, max_size=30)
).map(lambda raw: raw.replace(b"\n", b"\r"))
NUM_JOBS = pytest.mark.parametrize("num_jobs", [10, pytest.param(40, marks=pytest.mark.long)])


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file that every example writes anew."""
    return tmp_path_factory.mktemp("laws") / "in.jsonl"


@contextmanager
def job_folder(lines: list[bytes]) -> Iterator[Path]:
    """Give a folder with a job, for one example."""
    with tempfile.TemporaryDirectory() as name:
        # A file that has no object at all and begins as another kind of file is no job.
        (Path(name) / "in.jsonl").write_bytes(b"\n".join([b"{}", *lines]))
        yield Path(name)


def count_expected(lines: list[bytes]) -> int:
    """Count the lines that are not blank, as nothing but bytes."""
    pieces = (re.sub(rb"^(\xef\xbb\xbf)+", b"", line) for line in lines)
    return sum(1 for piece in pieces if piece.split())


@pytest.mark.parametrize("num_files", [150, pytest.param(2_000, marks=pytest.mark.long)])
def test_any_lines_are_one_line_each(path: Path, num_files: int) -> None:
    """Whatever the bytes are, every line is a request or an error that can be written, in order."""

    @settings(SAME, max_examples=num_files)
    @given(st.lists(RAWS, min_size=1, max_size=3))
    def check(lines: list[bytes]) -> None:
        path.write_bytes(b"\n".join(lines))

        parsed = list(Source(JobConfig((path,), path), [Input(path)]).lines())

        assert len(parsed) == count_expected(lines)
        numbers = [line.line for line in parsed]
        assert numbers == sorted({*numbers})
        assert all(b"\n" not in render_failure(x) for x in parsed if isinstance(x, FailedLine))

    check()


@NUM_JOBS
def test_any_job_publishes_one_line_each(num_jobs: int) -> None:
    """The same over whole jobs of more lines: nothing is lost, and the report adds up."""

    @settings(SAME, max_examples=num_jobs)
    @given(st.lists(RAWS, min_size=20, max_size=60))
    def check(lines: list[bytes]) -> None:
        with job_folder(lines) as folder:
            report = run(folder).report
            published = (folder / "out.jsonl").read_bytes().splitlines()

        assert len(published) == report.requests.total == 1 + count_expected(lines)
        assert report.requests.completed + report.requests.failed == report.requests.total

    check()


@NUM_JOBS
def test_stopped_job_is_the_uninterrupted_one(
    num_jobs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it was stopped, and however often, the bytes are the same and nothing is redone."""
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")

    @settings(SAME, max_examples=num_jobs)
    @given(
        st.lists(st.builds(written, BODIES, st.integers(0, 9)) | RAWS, min_size=1, max_size=12),
        st.lists(st.integers(0, 6), max_size=4),
    )
    def check(lines: list[bytes], stops: list[int]) -> None:
        with job_folder(lines) as folder:
            run(folder)
            expected = (folder / "out.jsonl").read_bytes()
        computed: list[str] = []
        with job_folder(lines) as folder:
            for stop in [*stops, 10**6]:
                backend = FakeBackend(explosion=KeyboardInterrupt(), explodes_at=stop)
                try:
                    run(folder, backend)
                except KeyboardInterrupt:
                    assert not (folder / "out.jsonl").exists()
                computed += backend.computed
            assert (folder / "out.jsonl").read_bytes() == expected
        assert len(computed) == len({*computed})

    check()
