"""Laws of merging: shards put together are the job that was not divided."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import requests, run, run_and_stop, write_input

from aobatch.errors import InputError, InputMissingError, JobError, UsageError
from aobatch.job.config import JobConfig, Selection, Shard
from aobatch.job.merge import merge_shards
from aobatch.job.runner import run_job

LINES = [
    *requests(["a", "b", "fail c", "a"], user="ada"),
    b"",
    {"prompt": "d", "custom_id": "x", "model": "other"},
    b"nonsense",
    {"prompt": "e", "custom_id": "x"},
    *requests(["a", "f", "a"], stream=True),
    {"custom_id": "y", "method": "POST", "url": "/v1/completions", "body": {"prompt": "g"}},
    {"prompt": "h", "model": "gone"},
]
"""12 lines that are not blank: right, wrong, repeated, failing, streamed, of two models."""


def run_shards(folder: Path, count: int, suffix: str = ".jsonl", **fields: object) -> list[Path]:
    """Run all shards of in.jsonl, the last one first."""
    paths = []
    for index in reversed(range(count)):
        path = folder / f"part{index}{suffix}"
        selection = Selection(shard=Shard(index, count), **fields)  # type: ignore[arg-type]
        run_job(JobConfig((folder / "in.jsonl",), path, selection=selection), FakeBackend())
        paths.append(path)
    return paths


@pytest.mark.parametrize(
    "count", [1, 2, 11, 12, 15, *(pytest.param(n, marks=pytest.mark.long) for n in (3, 13, 40))]
)
def test_merged_bytes_are_those_of_the_whole(tmp_path: Path, count: int) -> None:
    """Output and event files are the same, whatever the number of shards and their order."""
    write_input(tmp_path / "in.jsonl", LINES)
    run(tmp_path)

    merge_shards(run_shards(tmp_path, count), tmp_path / "merged.jsonl")

    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    events = [
        {path.name: path.read_bytes() for path in (tmp_path / f"{name}.stream").iterdir()}
        for name in ("out.jsonl", "merged.jsonl")
    ]
    assert len(events[0]) == 3
    assert events[0] == events[1]


def test_merged_report_is_that_of_the_whole(tmp_path: Path) -> None:
    """Counts, sums and percentiles are equal; seconds are those of all shards."""
    write_input(tmp_path / "in.jsonl", LINES)
    whole = run(tmp_path).report

    merge_shards(run_shards(tmp_path, 3), tmp_path / "merged.jsonl")

    merged = json.loads((tmp_path / "merged.jsonl.usage.json").read_bytes())
    expected = json.loads((tmp_path / "out.jsonl.usage.json").read_bytes())
    spread = ("prompt_tokens", "completion_tokens", "seconds", "histograms")
    for name in ("requests", "usage", "finish_reasons", *spread):
        assert merged[name] == expected[name], name
    for name in ("state", "lines", "created", "settings"):
        assert merged["job"][name] == expected["job"][name], name
    for name in ("by_model", "by_user"):
        groups = [{group["name"]: group for group in report[name]} for report in (merged, expected)]
        assert groups[0] == groups[1]
    assert merged["statistics"]["decode_steps"] == whole.statistics["decode_steps"]
    assert merged["timeline"]["lines"][-1] == expected["timeline"]["lines"][-1] == 9


def test_limited_and_compressed_shards_merge(tmp_path: Path) -> None:
    """A limit holds for the whole; names say how shards and output are compressed."""
    write_input(tmp_path / "in.jsonl", LINES)
    run(tmp_path, selection=Selection(limit=7))

    merge_shards(run_shards(tmp_path, 2, ".jsonl.gz", limit=7), tmp_path / "merged.jsonl")

    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize(("shards", "merged"), [(".parquet", ".parquet"), (".jsonl", ".parquet")])
def test_tables_merge_into_the_table_of_the_whole(tmp_path: Path, shards: str, merged: str) -> None:
    """Rows are those of the undivided job, numbered anew, whatever the shards' own files are."""
    write_input(tmp_path / "in.jsonl", LINES)
    run_job(JobConfig((tmp_path / "in.jsonl",), tmp_path / "whole.parquet"), FakeBackend())

    merge_shards(run_shards(tmp_path, 3, shards), tmp_path / f"merged{merged}")

    whole, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "merged"))
    assert found.column("index").to_pylist() == list(range(12))
    assert found.equals(whole)


def test_shards_of_a_table_merge_into_lines(tmp_path: Path) -> None:
    """Rows of a Parquet input are shared out as lines are."""
    rows = {"prompt": [f"p{n}" for n in range(10)], "user": [None, "ada"] * 5}
    pq.write_table(pa.table(rows), tmp_path / "in.parquet", row_group_size=3)
    source = (tmp_path / "in.parquet",)
    run_job(JobConfig(source, tmp_path / "whole.jsonl"), FakeBackend())
    paths = [tmp_path / f"part{index}.parquet" for index in range(4)]
    for index, path in enumerate(paths):
        part = Selection(shard=Shard(index, 4))
        run_job(JobConfig(source, path, selection=part), FakeBackend())

    merge_shards(paths, tmp_path / "merged.jsonl")

    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv.gz"])
def test_columns_that_were_kept_are_merged_too(tmp_path: Path, suffix: str) -> None:
    """A merged table is the undivided job's: columns, types, and what is said of its making."""
    rows = {
        "prompt": ["a", "fail b", 'c "q", d', "e\nf", "g", "h", "i"],
        "custom_id": pa.array([7, 6, 5, 4, 3, 2, 1]),
        "when": pa.array([*range(6), None], pa.timestamp("s", "UTC")),
        "text": ["t,1", None, "t3", "", "t5", "t6", "t7"],
    }
    pq.write_table(pa.table(rows), tmp_path / "in.parquet", row_group_size=3)
    config = JobConfig(
        (tmp_path / "in.parquet",),
        tmp_path / f"whole{suffix}",
        ignore_unknown=True,
        keep=("when", "text"),
    )
    run_job(config, FakeBackend())
    shards = [tmp_path / f"part{index}{suffix}" for index in range(3)]
    for index, path in enumerate(shards):
        part = replace(config, output=path, selection=Selection(shard=Shard(index, 3)))
        run_job(part, FakeBackend())

    merge_shards(shards, tmp_path / f"merged{suffix}")

    if suffix == ".parquet":
        whole, found = (pq.read_table(tmp_path / f"{name}.parquet") for name in ("whole", "merged"))
        assert found.equals(whole)
        assert found.schema.equals(whole.schema, check_metadata=True)
    else:
        whole, found = (tmp_path / f"{name}{suffix}" for name in ("whole", "merged"))
        opener = gzip.decompress if suffix.endswith(".gz") else bytes
        assert opener(found.read_bytes()) == opener(whole.read_bytes())


def test_shards_that_lack_what_the_output_would_have_are_refused(tmp_path: Path) -> None:
    """Rows of CSV have less than lines of JSON; shards with other columns are no table."""
    (tmp_path / "in.csv").write_text("prompt,a,b\nx,1,2\ny,3,4\n")
    paths = [tmp_path / f"part{index}.csv" for index in range(2)]
    for index, (path, column) in enumerate(zip(paths, "ab", strict=True)):
        part = Selection(shard=Shard(index, 2))
        config = JobConfig(
            (tmp_path / "in.csv",), path, selection=part, keep=(column,), ignore_unknown=True
        )
        run_job(config, FakeBackend())

    with pytest.raises(UsageError, match=r"merge into a \.csv, or write shards as \.jsonl"):
        merge_shards(paths, tmp_path / "merged.jsonl")
    with pytest.raises(InputError, match="run both with the same --keep"):
        merge_shards(paths, tmp_path / "merged.csv")


def test_merged_job_is_finished(tmp_path: Path) -> None:
    """The whole job has nothing left to do when its shards were merged into its output."""
    write_input(tmp_path / "in.jsonl", LINES)
    merge_shards(run_shards(tmp_path, 2), tmp_path / "out.jsonl")
    backend = FakeBackend()

    outcome = run(tmp_path, backend)

    assert outcome.was_finished
    assert backend.opened == []


def test_shards_of_different_jobs_are_refused(tmp_path: Path) -> None:
    """Settings, models, inputs, division and choice of lines must be the same."""
    write_input(tmp_path / "in.jsonl", LINES)
    second, first = run_shards(tmp_path, 2)
    source, out = (tmp_path / "in.jsonl",), tmp_path / "merged.jsonl"
    half = Selection(shard=Shard(1, 2))
    other = tmp_path / "other.jsonl"
    wrong = [
        (JobConfig(source, other, defaults={"n": 2}, selection=half), {}, "defaults is"),
        (JobConfig(source, other, selection=half), {"fake": "fp_9", "other": "fp_2"}, "is fp_1 in"),
        (JobConfig(source, other, selection=Selection(limit=3, shard=Shard(1, 2))), {}, "--limit"),
        (JobConfig(source, other, selection=Selection(shard=Shard(1, 3))), {}, "different div"),
        (JobConfig(source, other, selection=Selection(shard=Shard(0, 2))), {}, "not given"),
        (JobConfig(source * 2, other, selection=half), {}, "inputs differ"),
    ]
    for config, fingerprints, words in wrong:
        config = replace(config, is_restart=True)
        run_job(config, FakeBackend(**({"fingerprints": fingerprints} if fingerprints else {})))
        with pytest.raises(InputError, match=words):
            merge_shards([first, other], out)
    for paths, words in (
        ([first], "1 of 2 shards are not given"),
        ([first, second, first], "twice"),
    ):
        with pytest.raises(JobError, match=words):
            merge_shards(paths, out)

    assert not out.exists()


@pytest.mark.parametrize("damage", ["missing", "changed", "unfinished"])
def test_damaged_shards_are_refused(tmp_path: Path, damage: str) -> None:
    """A shard must be there, as it was written, with its state."""
    write_input(tmp_path / "in.jsonl", LINES)
    paths = run_shards(tmp_path, 2)
    if damage == "missing":
        paths[0].unlink()
    elif damage == "changed":
        paths[0].write_bytes(paths[0].read_bytes()[:-5])
    else:
        (tmp_path / f"{paths[0].name}.aobatch/done.json").unlink()

    kinds = {"missing": InputMissingError}
    with pytest.raises(kinds.get(damage, InputError)):
        merge_shards(paths, tmp_path / "merged.jsonl")
    assert not (tmp_path / "merged.jsonl").exists()


def test_unfinished_job_is_not_overwritten(tmp_path: Path) -> None:
    """Results of another job under the output's name are not lost."""
    write_input(tmp_path / "in.jsonl", LINES)
    paths = run_shards(tmp_path, 2)
    run_and_stop(tmp_path, 4)

    with pytest.raises(UsageError, match="unfinished job"):
        merge_shards(paths, tmp_path / "out.jsonl")
