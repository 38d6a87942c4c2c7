"""Laws of tables as pandas, DuckDB, polars and Spark write them: each says what its lines would."""

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tables import parse_rows, rows_of, write_table

from aobatch.api.request import FailedLine, Request
from aobatch.formats.parquet_fields import Columns

UUID = "6f1c1f8e-0a63-4d7e-9a0e-1f6d8a4b2c3d"


def copied(folder: Path, query: str) -> Path:
    """Write what DuckDB selects."""
    path = folder / "in.parquet"
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet)")
    return path


def bodies(path: Path) -> list[Any]:
    """Read the bodies of a table that has no failed row."""
    lines = parse_rows(path)
    assert [line for line in lines if isinstance(line, FailedLine)] == []
    return [line.body for line in lines if isinstance(line, Request)]


def test_gaps_of_pandas_are_nulls(tmp_path: Path) -> None:
    """A column of integers with a gap is one of floats and NaN, and means integers and null."""
    gap = float("nan")
    frame = pd.DataFrame(
        {
            "custom_id": [1, gap, 3],
            "prompt": ["a", None, "c"],
            "max_tokens": [5, gap, 7],
            "temperature": [0.5, gap, 2],
            "echo": [True, None, False],
        }
    )
    frame.to_parquet(tmp_path / "in.parquet")

    assert [row.fields for row in rows_of(tmp_path / "in.parquet")] == [
        {"custom_id": "1", "prompt": "a", "max_tokens": 5, "temperature": 0.5, "echo": True},
        dict.fromkeys(frame.columns),
        {"custom_id": "3", "prompt": "c", "max_tokens": 7, "temperature": 2, "echo": False},
    ]
    found = bodies(tmp_path / "in.parquet")
    assert [(body.max_tokens, body.temperature) for body in found] == [(5, 0.5), (16, 1), (7, 2)]


@pytest.mark.parametrize("field", ["max_tokens", "custom_id"])
def test_broken_number_is_an_error_of_its_row(tmp_path: Path, field: str) -> None:
    """What is no whole number where one is needed fails alone."""
    columns = {"prompt": ["a", "b", "c"], field: pa.array([1.0, 2.5, 3.0])}

    lines = parse_rows(write_table(tmp_path / "in.parquet", columns))

    assert [isinstance(line, FailedLine) for line in lines] == [False, True, False]
    assert "but got a decimal number" in lines[1].error.message  # type: ignore[union-attr]


def test_literals_of_duckdb_are_numbers(tmp_path: Path) -> None:
    """Its 0.5 is a decimal, wherever it stands, and a sum of integers is a float."""
    query = """SELECT 'a' AS prompt, 0.5 AS temperature, sum(8) AS max_tokens,
        MAP {'5': 0.5} AS logit_bias, 7.0 AS seed"""

    (body,) = bodies(copied(tmp_path, query))

    assert (body.temperature, body.max_tokens, body.seed) == (0.5, 8, 7)
    assert body.logit_bias == ((5, 0.5),)


def test_decimals_keep_all_digits(tmp_path: Path) -> None:
    """A whole decimal is an integer however large; a struct of decimals is one of numbers."""
    seed = 2**63 - 1
    columns = {
        "prompt": ["a"],
        "seed": pa.array([Decimal(seed)], pa.decimal128(38, 0)),
        "custom_id": pa.array([Decimal(10**30)], pa.decimal128(38, 4)),
        "logit_bias": pa.array([{"7": Decimal("-99.5")}]),
    }

    (line,) = parse_rows(write_table(tmp_path / "in.parquet", columns))

    assert isinstance(line, Request)
    assert (line.body.seed, line.custom_id) == (seed, str(10**30))
    assert line.body.logit_bias == ((7, -99.5),)


def test_values_of_json_are_what_they_say(tmp_path: Path) -> None:
    """A column of JSON, as DuckDB makes of fields of mixed types, holds values of any type."""
    query = """SELECT * FROM (VALUES
        ('"a"'::JSON, '{"5": 1}'::JSON, '["x", "y"]'::JSON, '3'::JSON),
        ('["b", "c"]', NULL, '"z"', 'null'), ('[1, 2]', NULL, NULL, '"many"')
        ) t(prompt, logit_bias, stop, max_tokens)"""

    lines = parse_rows(copied(tmp_path, query))

    first, second, third = lines
    assert isinstance(first, Request)
    assert isinstance(second, Request)
    assert (first.body.prompts, first.body.stop, first.body.max_tokens) == (("a",), ("x", "y"), 3)
    assert first.body.logit_bias == ((5, 1.0),)
    assert (second.body.prompts, second.body.stop) == (("b", "c"), ("z",))
    assert isinstance(third, FailedLine)


def test_body_of_json_is_a_body(tmp_path: Path) -> None:
    """An envelope whose body is marked as JSON is an envelope; a body that is none fails."""
    query = """SELECT 'i' || i AS custom_id, 'POST' AS method, '/v1/completions' AS url,
        CASE i WHEN 0 THEN '{"prompt": "a", "max_tokens": 2}'::JSON ELSE '[1]'::JSON END AS body
        FROM range(2) t(i)"""

    right, wrong = parse_rows(copied(tmp_path, query))

    assert isinstance(right, Request)
    assert (right.is_envelope, right.body.max_tokens) == (True, 2)
    assert isinstance(wrong, FailedLine)
    assert wrong.error.code == "invalid_type"


def test_uuids_are_written_as_everywhere(tmp_path: Path) -> None:
    """A UUID is an id of 36 characters."""
    query = f"SELECT '{UUID}'::UUID AS custom_id, 'a' AS prompt, '{UUID}'::UUID AS user"

    (line,) = parse_rows(copied(tmp_path, query))

    assert isinstance(line, Request)
    assert (line.custom_id, line.body.user) == (UUID, UUID)


def extended(kind: pa.DataType, values: Sequence[object]) -> pa.Array:
    """Make an array of an extension type."""
    return pa.ExtensionArray.from_storage(kind, pa.array(values, kind.storage_type))


class Unregistered(pa.ExtensionType):  # type: ignore[misc]
    """A type of somebody else, over strings."""

    def __init__(self) -> None:
        super().__init__(pa.string(), "somebody.text")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, *_: object) -> "Unregistered":
        return cls()


def test_extension_types_are_what_they_are_kept_as(tmp_path: Path) -> None:
    """A tensor is a list, a byte of truth a boolean, a type of somebody else what is below it."""
    path = write_table(
        tmp_path / "in.parquet",
        {
            "prompt": extended(pa.fixed_shape_tensor(pa.int32(), [2]), [[1, 2], [3, 4]]),
            "echo": extended(pa.bool8(), [1, None]),
            "user": extended(Unregistered(), ["ada", None]),
        },
    )

    first, second = bodies(path)

    assert (first.prompts, first.echo, first.user) == (((1, 2),), True, "ada")
    assert (second.prompts, second.echo, second.user) == (((3, 4),), False, None)


def test_types_of_polars_are_read(tmp_path: Path) -> None:
    """Categories, enumerations, decimals, short integers and lists say what they hold."""
    frame = pl.DataFrame(
        {
            "custom_id": pl.Series([1, 2], dtype=pl.UInt8),
            "prompt": [["a", "b"], ["c"]],
            "user": pl.Series(["x", "y"], dtype=pl.Categorical),
            "model": pl.Series(["m", None], dtype=pl.Enum(["m"])),
            "temperature": pl.Series(["0.5", None], dtype=pl.String).cast(pl.Decimal(10, 2)),
            "max_tokens": pl.Series([1.0, float("nan")]),
        }
    )
    frame.write_parquet(tmp_path / "in.parquet")

    lines = parse_rows(tmp_path / "in.parquet")

    first, second = (line for line in lines if isinstance(line, Request))
    assert (first.custom_id, first.body.prompts, first.body.user) == ("1", ("a", "b"), "x")
    assert (first.body.model, first.body.temperature, first.body.max_tokens) == ("m", 0.5, 1)
    assert (second.body.model, second.body.temperature, second.body.max_tokens) == (None, 1, 16)


def parted(folder: Path, table: pa.Table, names: Sequence[str]) -> list[Path]:
    """Write a table in folders, as Hive, Spark and DuckDB do, without Arrow's own schema."""
    pq.write_to_dataset(table, folder, partition_cols=list(names), store_schema=False)
    return sorted(folder.rglob("*.parquet"))


def test_folders_give_their_values(tmp_path: Path) -> None:
    """A field that the folders of a file name holds for its rows, in the field's own type."""
    table = pa.table(
        {
            "prompt": ["a", "b", "c"],
            "max_tokens": [2, 3, 3],
            "user": ["7", "x/ y", None],
            "echo": [True, False, False],
            "day": ["2026-11-29"] * 3,
        }
    )
    files = parted(tmp_path / "t", table, ["max_tokens", "user", "echo", "day"])

    found = {
        row.fields["prompt"]: row.fields  # type: ignore[index]
        for path in files
        for row in rows_of(path, Columns().at(path))
    }

    assert found == {
        "a": {"prompt": "a", "max_tokens": 2, "user": "7", "echo": True},
        "b": {"prompt": "b", "max_tokens": 3, "user": "x/ y", "echo": False},
        "c": {"prompt": "c", "max_tokens": 3, "user": None, "echo": False},
    }


def test_folders_are_columns_like_others(tmp_path: Path) -> None:
    """They can be mapped, and a column of the file itself goes ahead of them."""
    folder = tmp_path / "team=ada" / "max_tokens=2"
    folder.mkdir(parents=True)
    path = write_table(folder / "in.parquet", {"prompt": ["a"], "max_tokens": [9]})

    mapped = Columns({"user": "team", "max_tokens": "max_tokens"}).at(path)
    (row,) = rows_of(path, mapped)

    assert row.fields == {"prompt": "a", "max_tokens": 9, "user": "ada"}
