"""Laws of inputs: what files a name, a pattern or a folder stands for."""

from pathlib import Path

import pytest

from aobatch.errors import InputMissingError
from aobatch.job.config import STREAM
from aobatch.job.paths import expand_inputs

FILES = [
    "a.jsonl",
    "b.parquet",
    "b.jsonl.gz",
    "notes.txt",
    "in.usage.json",
    "a.out.jsonl",
    "a.out-00000-of-00002.jsonl",
    "a.errors.jsonl",
    "answers.jsonl",
    ".hidden.jsonl",
    ".cache/x.jsonl",
    "deep/er/c.ndjson",
    "deep/a.out.jsonl.stream/x.jsonl",
    "answers.jsonl.aobatch/stdin.jsonl",
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of many files, the working folder."""
    for name in FILES:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def expand(*named: str, outputs: tuple[str, ...] = ()) -> list[str]:
    """Expand names and write the files as names."""
    found = expand_inputs([Path(name) for name in named], [Path(name) for name in outputs])
    return [str(path) for path in found]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("named", "files"),
    [
        (["a.jsonl"], ["a.jsonl"]),
        (["b.parquet", "a.jsonl"], ["b.parquet", "a.jsonl"]),
        (["."], ["a.jsonl", "b.jsonl.gz", "b.parquet", "deep/er/c.ndjson"]),
        (["*.jsonl"], ["a.jsonl"]),
        (["b.*", "*.jsonl", "b.jsonl.gz"], ["b.jsonl.gz", "b.parquet", "a.jsonl"]),
        (["**/*.ndjson"], ["deep/er/c.ndjson"]),
        (["deep/"], ["deep/er/c.ndjson"]),
        (["-"], ["-"]),
        (["gone.jsonl"], ["gone.jsonl"]),
        (["a.out.jsonl"], ["a.out.jsonl"]),
        (["answers.jsonl"], ["answers.jsonl"]),
        (["a.jsonl", "a.out.jsonl", "answers.jsonl"], ["a.jsonl", "a.out.jsonl"]),
    ],
)
def test_names_stand_for_files(named: list[str], files: list[str]) -> None:
    """Folders and patterns give requests alone, in order, and never what a job wrote."""
    assert expand(*named) == files


@pytest.mark.usefixtures("folder")
def test_the_output_is_no_input() -> None:
    """An earlier output that a shell's pattern names too is passed over, but not alone."""
    assert expand("a.jsonl", "b.parquet", outputs=("b.parquet",)) == ["a.jsonl"]
    assert expand("b.parquet", outputs=("b.parquet",)) == ["b.parquet"]
    assert expand("*.parquet", "a.jsonl", outputs=("a.jsonl",)) == ["b.parquet"]


def test_name_with_brackets_is_a_file_if_there_is_one(folder: Path) -> None:
    """A file that is called like a pattern is that file."""
    (folder / "a[1].jsonl").touch()
    (folder / "a1.jsonl").touch()

    assert expand("a[1].jsonl") == ["a[1].jsonl"]
    (folder / "a[1].jsonl").unlink()
    assert expand("a[1].jsonl") == ["a1.jsonl"]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("name", ["*.zip", "deep/er/*.jsonl", ".cache/../deep/*"])
def test_nothing_found_is_an_error(name: str) -> None:
    """A pattern without a file of requests is a missing input."""
    with pytest.raises(InputMissingError, match=r"holds no file of requests; known are \.jsonl"):
        expand(name)


@pytest.mark.usefixtures("folder")
def test_standard_input_stands_among_files() -> None:
    """It keeps its place."""
    assert expand_inputs([Path("a.jsonl"), STREAM, Path("b.parquet")], []) == (
        Path("a.jsonl"),
        STREAM,
        Path("b.parquet"),
    )
