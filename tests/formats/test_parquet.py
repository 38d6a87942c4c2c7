"""Laws of Parquet inputs: a row is the request that the same line of JSON would be."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tables import MAX_BYTES, TYPES, parse_rows, rows_of, write_table

from aobatch.api.request import FailedLine, Request
from aobatch.errors import InputError, UsageError
from aobatch.formats import parquet, read_rows
from aobatch.formats.parquet_fields import Columns

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
REQUESTS = st.fixed_dictionaries(
    {"prompt": TEXTS | st.none()},
    optional={
        "max_tokens": st.integers(-2, 10**12),
        "temperature": st.floats(-1, 3),
        "echo": st.booleans(),
        "stop": st.lists(TEXTS, max_size=3),
        "stop_token_ids": st.lists(st.integers(-5, 10**6), max_size=3),
        "logit_bias": st.dictionaries(
            st.integers(0, 10**7).map(str), st.floats(-120, 120), max_size=3
        ),
        "stream": st.booleans(),
        "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}),
        "custom_id": TEXTS,
        "user": TEXTS,
        "seed": st.integers(-(2**63), 2**63 - 1),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(REQUESTS, min_size=1, max_size=6), st.sampled_from([1, 3, 2**20]))
def test_equal_requests_are_equal(
    tmp_path_factory: pytest.TempPathFactory, requests: list[dict[str, Any]], group: int
) -> None:
    """Rows give the requests, keys and errors of JSON lines that say the same."""
    folder = tmp_path_factory.mktemp("equal")
    names = [name for name in TYPES if any(name in request for request in requests)]
    columns = {name: [request.get(name) for request in requests] for name in names}
    columns["logit_bias"] = [b and list(b.items()) for b in columns.get("logit_bias", [])]
    table = write_table(
        folder / "in.parquet", {name: columns[name] for name in names}, row_group_size=group
    )
    # In the order of the columns, as the first thing that is wrong is reported.
    lines = [{name: request[name] for name in names if name in request} for request in requests]
    text = folder / "in.jsonl"
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert parse_rows(table) == parse_rows(text)


@pytest.mark.parametrize(
    ("field", "column", "value"),
    [
        ("prompt", pa.array(["a"], pa.large_string()), "a"),
        ("prompt", pa.array(["a"], pa.string_view()), "a"),
        ("prompt", pa.array(["a"]).dictionary_encode(), "a"),
        ("prompt", pa.array([["a", "b"]]), ["a", "b"]),
        ("prompt", pa.array([[1, 2]], pa.list_(pa.uint16())), [1, 2]),
        ("prompt", pa.array([[1, 2]], pa.list_(pa.int64(), 2)), [1, 2]),
        ("prompt", pa.array([[[1], [2, 3]]], pa.large_list(pa.list_(pa.int32()))), [[1], [2, 3]]),
        ("prompt", pa.array([None], pa.null()), None),
        ("max_tokens", pa.array([7], pa.int8()), 7),
        ("max_tokens", pa.array([7], pa.uint64()), 7),
        ("max_tokens", pa.array([7], pa.int64()).dictionary_encode(), 7),
        ("temperature", pa.array([1], pa.int32()), 1),
        ("temperature", pa.array([0.5], pa.float32()), 0.5),
        ("echo", pa.array([True]), True),
        ("stop", pa.array(["."]), "."),
        ("stop", pa.array([[".", "!"]]), [".", "!"]),
        ("logit_bias", pa.array(['{"5": -1.5}']), {"5": -1.5}),
        ("logit_bias", pa.array([{"5": 1, "6": None}]), {"5": 1}),
        ("logit_bias", pa.array([[(5, 1.5)]], pa.map_(pa.int32(), pa.float32())), {"5": 1.5}),
        ("logit_bias", pa.array([None], pa.null()), None),
        ("stream_options", pa.array([{"include_usage": True}]), {"include_usage": True}),
        ("stream_options", pa.array(['{"include_usage":true}']), {"include_usage": True}),
        ("custom_id", pa.array([12], pa.int64()), "12"),
    ],
)
def test_each_type_is_read(tmp_path: Path, field: str, column: pa.Array, value: object) -> None:
    """Whatever type a column has for its field, the request is that of the JSON value."""
    others = {} if field == "prompt" else {"prompt": ["p"]}
    others |= {"stream": [True]} if field == "stream_options" else {}
    table = write_table(tmp_path / "in.parquet", {**others, field: column})
    line = {name: cells[0] for name, cells in others.items()} | {field: value}
    text = tmp_path / "in.jsonl"
    text.write_text(json.dumps(line) + "\n")

    (request,) = parse_rows(table)

    assert isinstance(request, Request), request
    assert [request] == parse_rows(text)


def test_one_bad_cell_is_one_error(tmp_path: Path) -> None:
    """A cell that is no text, no JSON or out of bounds fails its row, which keeps its custom_id."""
    broken = pa.Array.from_buffers(
        pa.string(), 4, pa.array(["good", "no\xe9", "good", "good"]).buffers()
    )
    offsets, data = broken.buffers()[1:]
    raw = data.to_pybytes().replace("\xe9".encode(), b"\xff\xff")
    broken = pa.Array.from_buffers(pa.string(), 4, [None, offsets, pa.py_buffer(raw)])
    path = write_table(
        tmp_path / "in.parquet",
        {
            "prompt": broken,
            "custom_id": ["a", "b", "c", "d"],
            "logit_bias": pa.array([None, None, "{", None]),
            "max_tokens": [1, 1, 1, -1],
        },
    )

    first, *bad = parse_rows(path)

    assert isinstance(first, Request)
    assert [(b.line, b.custom_id, b.error.param, b.error.code) for b in bad] == [  # type: ignore[union-attr]
        (2, "b", None, "invalid_utf8"),
        (3, "c", "logit_bias", "invalid_value"),
        (4, "d", "max_tokens", "integer_below_min_value"),
    ]


def test_map_with_a_repeated_key_is_an_error(tmp_path: Path) -> None:
    """Two values for one token are uncertain, in a map as in an object."""
    twice = pa.array([[("5", 1.0), ("5", 2.0)]], TYPES["logit_bias"])
    path = write_table(tmp_path / "in.parquet", {"prompt": ["a"], "logit_bias": twice})

    (failed,) = parse_rows(path)

    assert isinstance(failed, FailedLine)
    assert failed.error.code == "duplicate_key"


def test_long_row_is_an_error(tmp_path: Path) -> None:
    """A row over the limit is not taken, and its neighbours are."""
    path = write_table(
        tmp_path / "in.parquet",
        {"prompt": ["a", "x" * (MAX_BYTES + 1), "b"], "custom_id": ["a", "long", "b"]},
    )

    first, long, last = parse_rows(path)

    assert isinstance(first, Request)
    assert isinstance(last, Request)
    assert isinstance(long, FailedLine)
    assert (long.error.code, long.custom_id) == ("line_too_long", "long")


@pytest.mark.parametrize("body", ["struct", "text"])
def test_envelopes_are_read(tmp_path: Path, body: str) -> None:
    """Columns of a batch line give the request of that line, whether body is a struct or JSON."""
    fields = [
        {"prompt": "a", "max_tokens": 3, "logit_bias": None},
        {"prompt": "b", "max_tokens": None},
    ]
    lines = [
        {"custom_id": str(i), "method": "POST", "url": "/v1/completions", "body": field}
        for i, field in enumerate(fields)
    ]
    columns = {name: [line[name] for line in lines] for name in ("custom_id", "method", "url")}
    bodies = pa.array(fields) if body == "struct" else pa.array(map(json.dumps, fields))
    table = write_table(tmp_path / "in.parquet", {**columns, "body": bodies})
    text = tmp_path / "in.jsonl"
    text.write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert parse_rows(table) == parse_rows(text)
    assert all(isinstance(request, Request) for request in parse_rows(table))


@pytest.mark.parametrize("size", [0, 1, 16, 17, 5000])
def test_rows_are_counted_and_numbered(tmp_path: Path, size: int) -> None:
    """Rows are numbered from 1, across batches and row groups, and as many as are counted."""
    prompts = [str(i) for i in range(size)]
    path = write_table(tmp_path / "in.parquet", {"prompt": prompts}, row_group_size=700)

    rows = rows_of(path)

    assert parquet.check(path, Columns()).num_rows == size
    assert [row.number for row in rows] == list(range(1, size + 1))
    assert [row.fields["prompt"] for row in rows if row.fields] == prompts


def test_damage_is_an_error_wherever_it_is(tmp_path: Path) -> None:
    """Every byte of a file that is changed is noticed, or changes no row."""
    columns = {"prompt": ["one", "two"], "max_tokens": [1, 2]}
    path = write_table(tmp_path / "in.parquet", columns, write_page_checksum=True)
    whole = path.read_bytes()
    rows = [row.fields for row in rows_of(path)]
    num_refused = 0
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x5A]) + whole[place + 1 :])
        try:
            read = [row.fields for row in rows_of(path)]
        except InputError:
            num_refused += 1
        else:
            assert [set(row or {}) <= {"prompt", "max_tokens"} for row in read] == [True] * len(
                read
            )
            assert len(read) <= len(rows)
    assert num_refused > len(whole) / 6
    path.write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cannot be read to its end as Parquet"):
        list(read_rows(path))


def test_compressed_parquet_is_refused(tmp_path: Path) -> None:
    """Parquet compresses its columns itself; a name that says more is a slip."""
    with pytest.raises(UsageError, match=r"compressed inside; leave \.gz out"):
        rows_of(tmp_path / "in.parquet.gz")


def test_repeated_large_cells_take_bounded_memory(tmp_path: Path) -> None:
    """A small file whose rows unfold to gigabytes is read in batches of some megabytes."""
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 2000, pa.int32()), ["x" * 2**20])
    path = write_table(tmp_path / "in.parquet", {"prompt": column}, store_schema=False)
    assert path.stat().st_size < 2**20
    before = pa.total_allocated_bytes()
    pool = pa.default_memory_pool()

    num_rows = sum(1 for _ in read_rows(path))

    assert num_rows == 2000
    assert (pool.max_memory() or 0) - before < 200 * 2**20
    assert pq.ParquetFile(path).schema_arrow.field("prompt").type == pa.string()
