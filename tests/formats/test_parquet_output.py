"""Laws of Parquet outputs: a row a line, whole, whatever its style."""

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from aobatch.formats import parquet, write_records
from aobatch.formats.answers import GROUP_BYTES

USAGE = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
CHOICES = [
    {"text": "first", "index": 0, "logprobs": None, "finish_reason": "stop"},
    {"text": "second", "index": 1, "logprobs": None, "finish_reason": "length"},
]
BODY = {"id": "cmpl-1", "object": "text_completion", "choices": CHOICES, "usage": USAGE}
ERROR = {"message": "It is wrong.", "type": "invalid_request_error", "param": None, "code": "bad"}


def envelope(body: object, error: object = None) -> dict[str, object]:
    """Wrap a body as an envelope does."""
    answer = {"status_code": 200, "request_id": "req_1", "body": body}
    return {"id": "batch_req_1", "custom_id": "e", "response": answer, "error": error}


LINES: list[tuple[dict[str, object], tuple[object, ...]]] = [
    ({"custom_id": "a", **BODY}, ("a", "first", "stop", 3, 5, None, None)),
    (BODY, (None, "first", "stop", 3, 5, None, None)),
    (
        {"custom_id": "b", "line": 3, "status_code": 400, "error": ERROR},
        ("b", None, None, None, None, "bad", "It is wrong."),
    ),
    (envelope(BODY), ("e", "first", "stop", 3, 5, None, None)),
    (envelope({"error": ERROR}), ("e", None, None, None, None, "bad", "It is wrong.")),
]


def write(records: Iterator[bytes] | list[bytes]) -> bytes:
    """Write records as Parquet."""
    stream = io.BytesIO()
    write_records(records, stream, Path("out.parquet"))
    return stream.getvalue()


def test_each_style_fills_the_columns() -> None:
    """Answers and errors, bare and in envelopes, have their values in the flat columns."""
    records = [json.dumps(line, separators=(",", ":")).encode() for line, _ in LINES]

    table = pq.read_table(io.BytesIO(write(records)))

    assert table.column_names == [
        *("custom_id", "index", "text", "finish_reason", "prompt_tokens", "completion_tokens"),
        *("error_code", "error_message", "response"),
    ]
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert [(row[0], *row[2:-1]) for row in rows] == [expected for _, expected in LINES]
    assert [row[1] for row in rows] == list(range(len(LINES)))
    assert [row[-1].encode() for row in rows] == records


def test_records_are_read_again(tmp_path: Path) -> None:
    """The whole lines come back in their order, and the file has the same bytes each time."""
    records = [b'{"id":"%07d","choices":[]}' % number for number in range(70_000)]
    content = write(records)
    path = tmp_path / "out.parquet"
    path.write_bytes(content)

    assert list(parquet.read_records(path)) == records
    assert pq.ParquetFile(path).num_row_groups == 2
    assert write(records) == content


@pytest.mark.parametrize("num_records", [0, 1])
def test_few_records_are_a_table(num_records: int) -> None:
    """An output without a line has its columns all the same."""
    table = pq.read_table(io.BytesIO(write([b'{"id":"a"}'] * num_records)))

    assert table.num_rows == num_records
    assert len(table.column_names) == 9


def test_memory_does_not_grow_with_the_output() -> None:
    """Row groups are written as they fill, so an output of any size takes some of them."""
    record = json.dumps({"id": "x" * 2**20}).encode()
    num_records = 8 * GROUP_BYTES // len(record)
    before = pa.total_allocated_bytes()
    peaks: list[int] = []

    def records() -> Iterator[bytes]:
        for _ in range(num_records):
            peaks.append(pa.total_allocated_bytes() - before)
            yield record

    write(records())

    assert max(peaks) < 4 * GROUP_BYTES
