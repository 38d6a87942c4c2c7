"""Laws of jobs over Parquet files: their results are those of lines of JSON."""

import json
from contextlib import AbstractContextManager
from decimal import Decimal
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import output, requests, run, texts, write_input

from aobatch.errors import InputError, StorageError, UsageError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.config import JobConfig, Selection, Shard
from aobatch.job.merge import merge_shards
from aobatch.job.paths import Targets, expand_inputs, plan_jobs
from aobatch.job.runner import run_job

PROMPTS = ["one", "two", "fail now", "three", "four"]
LONG_PROMPTS = [f"{number:0200}" for number in range(1_500)]
"""So many that what comes first is computed before the end is read."""


def write_table(path: Path, **columns: object) -> Path:
    """Write columns as Parquet."""
    pq.write_table(pa.table(columns), path, compression="none")
    return path


def job(source: Path, target: Path, **fields: object) -> JobConfig:
    """Describe a job of one input."""
    return JobConfig((source,), target, **fields)  # type: ignore[arg-type]


def test_table_gives_the_bytes_of_lines(tmp_path: Path) -> None:
    """The output of a table is that of lines that say the same, byte by byte."""
    ids = [f"id-{i}" for i in range(len(PROMPTS))]
    table = write_table(tmp_path / "in.parquet", custom_id=ids, prompt=PROMPTS, max_tokens=[0] * 5)
    lines = [
        {"custom_id": custom_id, "prompt": prompt, "max_tokens": 0}
        for custom_id, prompt in zip(ids, PROMPTS, strict=True)
    ]
    write_input(tmp_path / "in.jsonl", list(lines))
    run(tmp_path)
    backend = FakeBackend()

    run_job(job(table, tmp_path / "table.jsonl"), backend)

    assert (tmp_path / "table.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()
    # A job of lines goes on with the results of the table, since keys are equal.
    again = FakeBackend()
    run_job(job(tmp_path / "in.jsonl", tmp_path / "table.jsonl"), again)
    assert again.computed == []


def test_table_of_answers_holds_the_lines(tmp_path: Path) -> None:
    """A Parquet output has a row a line, and in it the line that JSON Lines would have."""
    write_input(tmp_path / "in.jsonl", [*requests(PROMPTS), b"nonsense"])
    run(tmp_path)

    run_job(job(tmp_path / "in.jsonl", tmp_path / "out.parquet"), FakeBackend())

    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [json.loads(row["response"]) for row in table] == output(tmp_path)
    assert [row["text"] for row in table] == ["[one]", "[two]", None, "[three]", "[four]", None]
    codes = [row["error_code"] for row in table]
    assert codes == [None, None, "numerical_error", None, None, "invalid_json_line"]


def test_kinds_of_inputs_mix(tmp_path: Path) -> None:
    """Lines and tables make one job, with lines numbered in their own files."""
    lines = write_input(tmp_path / "a.jsonl", [*requests(["a"]), b"{"])
    table = write_table(tmp_path / "b.parquet", prompt=["b", "c"], max_tokens=[1, -1])

    run_job(JobConfig((lines, table, lines), tmp_path / "out.jsonl"), FakeBackend())

    assert [line.get("line") for line in output(tmp_path)] == [None, 2, None, 2, None, 2]


def test_wrong_table_stops_the_job_before_it_begins(tmp_path: Path) -> None:
    """No state and no model come of a table whose columns are wrong."""
    table = write_table(tmp_path / "in.parquet", prompt=[1, 2])
    backend = FakeBackend()

    with pytest.raises(InputError, match="'prompt' needs strings"):
        run_job(job(table, tmp_path / "out.jsonl"), backend)
    assert backend.opened == []
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_damaged_table_keeps_the_results(tmp_path: Path) -> None:
    """What was computed stays, nothing is published, and the job goes on once it is whole again."""
    table = tmp_path / "in.parquet"
    prompts = pa.table({"prompt": LONG_PROMPTS})
    pq.write_table(prompts, table, write_page_checksum=True)
    whole = table.read_bytes()
    target = tmp_path / "out.jsonl"
    broken = FakeBackend(explosion=StorageError("stop"), explodes_at=50)
    with pytest.raises(StorageError):
        run_job(job(table, target), broken)
    middle = len(whole) // 2
    table.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    backend = FakeBackend()

    with pytest.raises(InputError, match="cannot be read to its end as Parquet"):
        run_job(job(table, target), backend)

    assert backend.opened == []
    assert not target.exists()
    table.write_bytes(whole)
    run_job(job(table, target), backend)
    assert len(backend.computed) == len(LONG_PROMPTS) - 50
    assert len(output(tmp_path)) == len(LONG_PROMPTS)


def test_table_damaged_under_way_is_not_published(tmp_path: Path) -> None:
    """A file that becomes unreadable while it is read ends the job, and what is done is kept."""
    table = write_table(tmp_path / "in.parquet", prompt=LONG_PROMPTS)
    whole = table.read_bytes()

    class Meddler(FakeBackend):
        def open(self, model: ModelIdentity) -> AbstractContextManager[Executor]:
            table.write_bytes(whole[: len(whole) // 2])
            return super().open(model)

    meddler = Meddler()
    with pytest.raises(InputError):
        run_job(job(table, tmp_path / "out.jsonl"), meddler)

    assert not (tmp_path / "out.jsonl").exists()
    table.write_bytes(whole)
    backend = FakeBackend()
    run_job(job(table, tmp_path / "out.jsonl"), backend)
    assert len(meddler.computed) > 0
    assert not set(backend.computed) & set(meddler.computed[:-3])
    assert len(output(tmp_path)) == len(LONG_PROMPTS)


def test_folders_of_a_parted_table_say_what_its_files_do_not(tmp_path: Path) -> None:
    """A folder that Spark wrote is one table: its folders hold values, unfinished files nothing."""
    table = pa.table({"prompt": ["a", "b", "c"], "max_tokens": [1, 2, 2], "user": ["x", "y", "y"]})
    pq.write_to_dataset(table, tmp_path / "in", partition_cols=["max_tokens", "user"])
    (tmp_path / "in" / "_SUCCESS").touch()
    unfinished = tmp_path / "in" / "_temporary" / "0"
    unfinished.mkdir(parents=True)
    write_table(unfinished / "part-0.parquet", prompt=["twice"])
    inputs = expand_inputs([tmp_path / "in"], [])
    write_input(
        tmp_path / "in.jsonl",
        [
            {"prompt": p, "max_tokens": n, "user": u}
            for p, n, u in zip(*table.to_pydict().values(), strict=True)
        ],
    )

    run_job(JobConfig(inputs, tmp_path / "table.jsonl"), FakeBackend())
    run(tmp_path)

    assert (tmp_path / "table.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_columns_without_a_table_are_refused(tmp_path: Path) -> None:
    """A mapping of columns that would do nothing is a slip."""
    config = job(tmp_path / "in.jsonl", Path(), columns={"prompt": "text"})

    with pytest.raises(UsageError, match="no input is one"):
        plan_jobs(config, Targets())


def test_other_columns_are_another_job(tmp_path: Path) -> None:
    """A finished job whose columns are chosen anew is run anew."""
    table = write_table(tmp_path / "in.parquet", q=["a"], r=["b"])
    found = []
    for column in ("q", "r"):
        config = job(table, tmp_path / "out.jsonl", columns={"prompt": column})
        assert not run_job(config, FakeBackend()).was_finished
        found += texts(tmp_path)

    assert found == ["[a]", "[b]"]


ID_TYPES = {
    "int8": pa.array([1, -2, 3], pa.int8()),
    "uint64": pa.array([1, 2, 2**64 - 1], pa.uint64()),
    "double": pa.array([1.0, None, 3e300]),
    "decimal": pa.array([Decimal("1.00"), Decimal("2.00"), None], pa.decimal128(38, 2)),
    "dictionary": pa.array([7, 8, 9], pa.int64()).dictionary_encode(),
    "uuid": pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([bytes(16), None, bytes(range(16))], pa.binary(16))
    ),
}


@pytest.mark.parametrize("kind", ID_TYPES)
def test_custom_ids_keep_their_type_in_a_table(tmp_path: Path, kind: str) -> None:
    """What a table calls its rows, the table of answers calls them too, failed rows as well."""
    ids = ID_TYPES[kind]
    table = write_table(tmp_path / "in.parquet", custom_id=ids, prompt=["one", "fail now", "three"])
    errors = tmp_path / "errors.parquet"

    run_job(job(table, tmp_path / "out.parquet", errors=errors), FakeBackend())

    answers = pq.read_table(tmp_path / "out.parquet")["custom_id"]
    assert answers.to_pylist() == ids.to_pylist()
    assert answers.type == (ids.type.value_type if kind == "dictionary" else ids.type)
    assert pq.read_table(errors)["custom_id"].to_pylist() == ids.to_pylist()[1:2]


def test_answers_join_with_their_table(tmp_path: Path) -> None:
    """pandas, polars and DuckDB join answers with the table they are of, without a conversion."""
    table = write_table(tmp_path / "in.parquet", custom_id=[3, 1, 2], prompt=["c", "a", "b"])
    answers = tmp_path / "out.parquet"

    run_job(job(table, answers), FakeBackend())

    expected = [("a", "[a]"), ("b", "[b]"), ("c", "[c]")]
    frames = pd.read_parquet(table).merge(pd.read_parquet(answers), on="custom_id")
    assert sorted(zip(frames["prompt"], frames["text"], strict=True)) == expected
    lazy = pl.read_parquet(table).join(pl.read_parquet(answers), on="custom_id")
    assert sorted(lazy.select("prompt", "text").rows()) == expected
    query = f"FROM '{table}' JOIN '{answers}' USING (custom_id) SELECT prompt, text ORDER BY 1"
    assert duckdb.sql(query).fetchall() == expected


def test_merged_answers_keep_the_type(tmp_path: Path) -> None:
    """Shards of a table of integers merge into the bytes of the whole."""
    table = write_table(tmp_path / "in.parquet", custom_id=list(range(5)), prompt=PROMPTS)
    shards = [tmp_path / f"{index}.parquet" for index in range(2)]
    for index, shard in enumerate(shards):
        run_job(job(table, shard, selection=Selection(shard=Shard(index, 2))), FakeBackend())

    merge_shards(shards, tmp_path / "merged.parquet")
    run_job(job(table, tmp_path / "whole.parquet"), FakeBackend())

    whole = pq.read_table(tmp_path / "whole.parquet")
    assert whole["custom_id"].to_pylist() == list(range(5))
    assert pq.read_table(tmp_path / "merged.parquet").equals(whole)


def test_ids_of_several_types_are_text(tmp_path: Path) -> None:
    """Where inputs call their rows by other types, the answers call them by their texts."""
    numbers = write_table(tmp_path / "a.parquet", custom_id=[1], prompt=["a"])
    lines = write_input(tmp_path / "b.jsonl", [{"custom_id": "x", "prompt": "b"}])

    run_job(JobConfig((numbers, lines), tmp_path / "out.parquet"), FakeBackend())

    assert pq.read_table(tmp_path / "out.parquet")["custom_id"].to_pylist() == ["1", "x"]
