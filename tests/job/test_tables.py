"""Laws of jobs over Parquet files: their results are those of lines of JSON."""

import json
from contextlib import AbstractContextManager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import output, requests, run, texts, write_input

from aobatch.errors import InputError, StorageError, UsageError
from aobatch.executors import Executor, ModelIdentity
from aobatch.job.config import JobConfig
from aobatch.job.paths import Targets, plan_jobs
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
    """Lines and tables make one job, with lines numbered on."""
    lines = write_input(tmp_path / "a.jsonl", [*requests(["a"]), b"{"])
    table = write_table(tmp_path / "b.parquet", prompt=["b", "c"], max_tokens=[1, -1])

    run_job(JobConfig((lines, table, lines), tmp_path / "out.jsonl"), FakeBackend())

    assert [line.get("line") for line in output(tmp_path)] == [None, 2, None, 4, None, 6]


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
