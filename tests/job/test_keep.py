"""Laws of columns that go along: each answer stands beside what its own row had, of its type."""

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend

from aobatch.errors import InputError
from aobatch.formats.template import parse_template
from aobatch.job.config import JobConfig, Selection, Shard
from aobatch.job.runner import run_job

COLUMNS = {
    "prompt": pa.array([f"p{i}" for i in range(9)]),
    "small": pa.array(range(9), pa.int16()),
    "when": pa.array(
        [datetime(2026, 1, 1 + i, tzinfo=UTC) for i in range(9)], pa.timestamp("ns", "UTC")
    ),
    "day": pa.array([date(2026, 1, 1 + i) for i in range(9)]),
    "price": pa.array([Decimal(i) / 100 for i in range(9)], pa.decimal128(9, 2)),
    "tags": pa.array([["a"] * i for i in range(9)]),
    "kind": pa.array(["x", None, "y"] * 3).dictionary_encode(),
    "text": pa.array([f"t{i}" for i in range(9)], pa.large_string()),
    "place": pa.array([{"x": i} for i in range(9)]),
    "raw": pa.array([bytes([i]) for i in range(9)]),
}
TABLE = pa.table(COLUMNS)


def run(path: Path, output: str, source: pa.Table | str = TABLE, **options: object) -> Path:
    """Answer a table, or a text of a suffix, and give the output."""
    named = path / ("in.parquet" if isinstance(source, pa.Table) else "in.csv")
    if isinstance(source, pa.Table):
        pq.write_table(source, named, row_group_size=4)
    else:
        named.write_text(source)
    options = {"ignore_unknown": True, "keep": ("all",), **options}
    run_job(JobConfig((named,), path / output, **options), FakeBackend())  # type: ignore[arg-type]
    return path / output


def test_all_types_are_kept(tmp_path: Path) -> None:
    """Every column is in the output as it was, but for its name where that was taken."""
    found = pq.read_table(run(tmp_path, "out.parquet"))

    for name, column in COLUMNS.items():
        kept = found[f"input_{name}" if name == "text" else name]
        assert kept.type == column.type
        assert kept.to_pylist() == column.to_pylist()
    assert found["text"].to_pylist() == [f"[p{i}]" for i in range(9)]


@pytest.mark.parametrize(
    "selection",
    [Selection(limit=5), Selection(sample=4, seed=3), Selection(shard=Shard(1, 3))],
    ids=["limit", "sample", "shard"],
)
def test_chosen_rows_keep_their_own(selection: Selection, tmp_path: Path) -> None:
    """Whichever rows are answered, each has what stood beside its prompt."""
    found = pq.read_table(run(tmp_path, "out.parquet", selection=selection, keep=("small",)))

    texts = found["text"].to_pylist()
    assert 0 < len(texts) < 9
    assert texts == [f"[p{number}]" for number in found["small"].to_pylist()]
    assert "kind" not in found.schema.names


def test_several_inputs_are_one_table(tmp_path: Path) -> None:
    """Rows of the second file follow those of the first; types that differ are told ahead."""
    pq.write_table(TABLE.slice(0, 4), tmp_path / "a.parquet")
    pq.write_table(TABLE.slice(4), tmp_path / "b.parquet")
    paths = (tmp_path / "a.parquet", tmp_path / "b.parquet")
    config = JobConfig(paths, tmp_path / "out.parquet", ignore_unknown=True, keep=("small",))
    run_job(config, FakeBackend())

    assert pq.read_table(config.output)["small"].to_pylist() == [*range(9)]
    other = TABLE.set_column(1, "small", TABLE["small"].cast("int64"))
    pq.write_table(other, paths[1])
    with pytest.raises(InputError, match="have columns of other names or types to keep"):
        run_job(config, FakeBackend())


def test_lines_have_them_as_an_object(tmp_path: Path) -> None:
    """JSON lines end with `input`; failed rows and --errors have theirs, too."""
    source = "prompt,n\na,1\nfail,2\nb\n"
    output = run(tmp_path, "out.jsonl", source, keep=("n",), errors=tmp_path / "bad.jsonl")
    lines = [json.loads(line) for line in output.read_text().splitlines()]
    bad = [json.loads(line) for line in (tmp_path / "bad.jsonl").read_text().splitlines()]

    assert [line["input"] for line in lines] == [{"n": "1"}, {"n": "2"}, {"n": ""}]
    assert [list(line)[-1] for line in lines] == ["input"] * 3
    assert [line["input"] for line in bad] == [{"n": "2"}, {"n": ""}]


def test_fields_of_lines_are_kept_as_they_are(tmp_path: Path) -> None:
    """Of JSON lines any value is kept; in tables what is no text is JSON; blank lines count."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"t": "a", "n": 5}\n\n\n{"t": "b", "n": [1, null]}\n{"t": "c"}\n')
    template = parse_template("{t}")
    for name in ("out.jsonl", "out.parquet", "out.csv"):
        config = JobConfig((source,), tmp_path / name, template=template, keep=("n", "t"))
        run_job(config, FakeBackend())

    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [line["input"] for line in lines] == [
        {"n": 5, "t": "a"},
        {"n": [1, None], "t": "b"},
        {"n": None, "t": "c"},
    ]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table["n"].to_pylist() == ["5", "[1,null]", None]
    assert table["t"].to_pylist() == ["a", "b", "c"]
    assert (tmp_path / "out.csv").read_text().splitlines()[2].endswith(',"[1,null]",b')


def test_a_column_that_is_not_there_is_told_ahead(tmp_path: Path) -> None:
    """With the names that there are."""
    with pytest.raises(InputError, match=r"no column 'smal' to keep \(did you mean 'small'\?\)"):
        run(tmp_path, "out.parquet", keep=("smal",))


def test_other_columns_are_another_output_of_the_same_results(tmp_path: Path) -> None:
    """A finished job is published anew, and nothing is computed again."""
    run(tmp_path, "out.parquet", keep=("small",))
    backend = FakeBackend()
    config = JobConfig(
        (tmp_path / "in.parquet",), tmp_path / "out.parquet", ignore_unknown=True, keep=("day",)
    )
    run_job(config, backend)

    assert backend.computed == []
    assert "day" in pq.read_schema(config.output).names


def test_a_table_says_what_made_it(tmp_path: Path) -> None:
    """Version, models, settings and inputs stand in the metadata, the inputs in the report too."""
    output = run(tmp_path, "out.parquet")
    metadata = pq.read_schema(output).metadata
    report = json.loads((tmp_path / "out.parquet.usage.json").read_bytes())

    assert json.loads(metadata[b"aobatch.models"]) == {"fake": "fp_1"}
    inputs = json.loads(metadata[b"aobatch.inputs"])
    assert inputs[0]["name"].endswith("in.parquet")
    assert len(inputs[0]["digest"]) == 64
    assert report["job"]["inputs"] == inputs
    assert b"aobatch.version" in metadata
