"""Laws of JSON Lines files."""

import gzip
import io
import os
import re
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aobatch.errors import InputError, InputMissingError, UsageError
from aobatch.formats import COMPRESSIONS, find_format, jsonl, read_rows, write_records

LINES = b'{"a":1}\n\n{"b":2}\r\n \t\n{"c":"\xe2\x80\xa8\xc2\x85"}'
ROWS = [(1, b'{"a":1}'), (3, b'{"b":2}'), (5, b'{"c":"\xe2\x80\xa8\xc2\x85"}')]


def rows_of(path: Path) -> list[tuple[int, bytes]]:
    """Read a file whole."""
    return [(row.number, row.raw) for row in read_rows(path)]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
def test_line_feeds_alone_end_lines(tmp_path: Path, start: bytes, end: bytes) -> None:
    """CRLF, a byte-order mark, blank lines and a missing last line end change no row."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(start + LINES + end)

    assert rows_of(path) == ROWS


def test_byte_order_marks_of_joined_files_are_dropped(tmp_path: Path) -> None:
    """Marks at the start of a line, where no JSON has any, are those of files that were joined."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\xef\xbb\xbf1\n\xef\xbb\xbf2\n\xef\xbb\xbf\n3\xef\xbb\xbf\n")

    assert rows_of(path) == [(1, b"1"), (2, b"2"), (4, b"3\xef\xbb\xbf")]


def test_lone_carriage_return_stays(tmp_path: Path) -> None:
    """One carriage return before the line feed is dropped, no other."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"a\rb\r\r\n")

    assert rows_of(path) == [(1, b"a\rb\r")]


@given(data=st.binary(max_size=60), size=st.integers(1, 8), limit=st.integers(0, 10))
def test_lines_do_not_depend_on_chunks(data: bytes, size: int, limit: int) -> None:
    """However the bytes arrive, the lines are those of a plain split."""

    class Trickle(io.BytesIO):
        def read(self, _size: int | None = -1, /) -> bytes:
            # The first bytes come together, as they do from a file: a mark is not cut.
            return super().read(size if self.tell() else 3)

    lines = list(jsonl.split_lines(Trickle(data), limit))

    pieces = [None if len(piece) > limit else piece for piece in data.split(b"\n")]
    bounded = [
        piece and re.sub(b"^(\xef\xbb\xbf)+", b"", piece).removesuffix(b"\r") for piece in pieces
    ]
    numbered = list(enumerate(bounded, start=1))
    assert lines == [(number, line) for number, line in numbered if line is None or line.strip()]


def test_long_line_is_an_error_row_in_bounded_memory(tmp_path: Path) -> None:
    """A line over the limit is passed by without being kept; its neighbours are read."""
    path = tmp_path / "in.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        stream.write(b"1\n")
        for _ in range(17):
            stream.write(b" " * 2**20)
        stream.write(b"x\n2\n")

    tracemalloc.start()
    rows = list(read_rows(path, max_line_bytes=2**20))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [(row.number, row.raw) for row in rows] == [(1, b"1"), (2, b""), (3, b"2")]
    assert rows[1].error is not None
    assert rows[1].error.code == "line_too_long"
    assert peak < 8 * 2**20


def test_default_limit_is_16_mebibytes(tmp_path: Path) -> None:
    """A line of exactly the limit is read, one byte more is not."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"x" * 2**24 + b"\n" + b"x" * (2**24 + 1))

    assert [row.error is None for row in read_rows(path)] == [True, False]


@pytest.mark.parametrize("suffix", ["", *COMPRESSIONS])
def test_written_records_are_read_again(tmp_path: Path, suffix: str) -> None:
    """Every compression that is written is read, and gives the same file each time."""
    path = tmp_path / f"out.jsonl{suffix}"
    records = [b'{"n":%d}' % number for number in range(1000)]
    contents = set()
    for _ in range(2):
        with path.open("wb") as stream:
            write_records(iter(records), stream, path)
        contents.add(path.read_bytes())

    assert [row.raw for row in read_rows(path)] == records
    assert len(contents) == 1


@pytest.mark.parametrize(("suffix", "codec"), COMPRESSIONS.items())
def test_damaged_compressed_file_is_refused_or_read_whole(
    tmp_path: Path, suffix: str, codec: str
) -> None:
    """Wherever a file is cut, and whatever follows its end, it is an error and not a short file."""
    path = tmp_path / f"in.jsonl{suffix}"
    with pa.output_stream(str(path), compression=codec) as stream:
        stream.write(LINES * 20)
    whole = path.read_bytes()
    num_rows = len(rows_of(path))

    for damaged in [*(whole[:end] for end in range(len(whole))), whole + b"garbage", LINES]:
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="cannot be read to its end"):
            rows_of(path)
    path.write_bytes(whole)
    assert len(rows_of(path)) == num_rows


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_joined_compressed_files_are_one(tmp_path: Path, suffix: str) -> None:
    """What `cat a.gz b.gz` gives is read to its end, as what parallel compressors write is."""
    path = tmp_path / f"in.jsonl{suffix}"
    parts = []
    for record in (b"1", b"2", b"3"):
        with path.open("wb") as stream:
            write_records([record], stream, path)
        parts.append(path.read_bytes())
    path.write_bytes(b"".join(parts))

    assert rows_of(path) == [(1, b"1"), (2, b"2"), (3, b"3")]


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_empty_output_is_no_damaged_input(tmp_path: Path, suffix: str) -> None:
    """What is written for no records is read as no rows."""
    path = tmp_path / f"out.jsonl{suffix}"
    with path.open("wb") as stream:
        write_records([], stream, path)

    assert rows_of(path) == []


def test_unknown_suffix_names_the_known(tmp_path: Path) -> None:
    """The message lists what would be read."""
    with pytest.raises(UsageError, match=r"in.txt has no known suffix.*\.jsonl.*\.zst"):
        find_format(tmp_path / "in.txt")


def test_suffix_may_be_in_capitals() -> None:
    """Files from other systems are known too."""
    assert find_format(Path("A.JSONL.GZ")) is jsonl


def test_missing_and_strange_inputs_are_refused(tmp_path: Path) -> None:
    """A missing file, a folder and a pipe are told apart."""
    (tmp_path / "folder.jsonl").mkdir()
    os.mkfifo(tmp_path / "pipe.jsonl")

    with pytest.raises(InputMissingError, match="does not exist"):
        rows_of(tmp_path / "no.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        rows_of(tmp_path / "folder.jsonl")
    with pytest.raises(InputError, match="not a regular file"):
        rows_of(tmp_path / "pipe.jsonl")
