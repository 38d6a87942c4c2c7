"""Laws of files that are not what their names say: one sentence, before anything is written."""

import bz2
import gzip
import io
import json
import lzma
import re
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fakes import FakeBackend
from job_files import output

from aobatch.errors import InputError
from aobatch.job.config import STREAM, JobConfig
from aobatch.job.runner import run_job

LINES = b'{"prompt": "a", "max_tokens": 1}\n{"prompt": "b"}\n'
OBJECTS = [json.loads(line) for line in LINES.splitlines()]


def compressed(codec: str) -> bytes:
    """Compress the lines into one frame."""
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, codec) as stream:
        stream.write(LINES)
    return buffer.getvalue().to_pybytes()


def archive() -> bytes:
    """Put the lines into a zip file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("in.jsonl", LINES)
    return sink.getvalue()


def table() -> bytes:
    """Write the lines as Parquet."""
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(OBJECTS), sink)
    return sink.getvalue()


# The header of a frame whose window is of 2 GiB, and an empty last block.
LONG_FRAME = b"\x28\xb5\x2f\xfd\x00\xa8\x01\x00\x00"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
PRETTY = json.dumps(OBJECTS, indent=2).encode()

MISTAKES: dict[str, tuple[str, bytes, str]] = {
    "gzip": ("jsonl", gzip.compress(LINES), "is gzip, .*; give its name the suffix .gz"),
    "bz2": ("ndjson", bz2.compress(LINES), "is bz2, .* the suffix .bz2"),
    "zstd": ("jsonl", compressed("zstd"), "is zstd, .* the suffix .zst"),
    "lz4": ("jsonl", compressed("lz4"), "is lz4, .* the suffix .lz4"),
    "xz": ("jsonl", lzma.compress(LINES), "is xz, .*; unpack it with xz -d"),
    "zip": ("jsonl", archive(), "is a zip archive, .*; unpack it"),
    "parquet": ("jsonl", table(), "is Parquet, .* the suffix .parquet alone"),
    "pointer": ("jsonl", POINTER, "is a pointer of Git LFS, .* git lfs pull"),
    "page": ("jsonl", b"<!doctype html>\n<html>", "is a page of HTML, .*; download the file"),
    "lines": ("parquet", LINES, "has lines of JSON and is not Parquet; .* the suffix .jsonl"),
    "zipped table": ("parquet", gzip.compress(table()), "is gzip, not Parquet, .* suffix .gz"),
    "pointer to a table": ("parquet", POINTER, "is a pointer of Git LFS, not Parquet, .* pull"),
    "utf-16": ("jsonl", LINES.decode().encode("utf-16"), "is UTF-16, .*; save it as UTF-8"),
    "utf-16-le": ("jsonl", LINES.decode().encode("utf-16-le"), "is UTF-16"),
    "utf-16-be": ("jsonl", LINES.decode().encode("utf-16-be"), "is UTF-16"),
    "utf-32": ("jsonl", LINES.decode().encode("utf-32"), "is UTF-32"),
    "text": ("jsonl.gz", LINES, "is not compressed with gzip; leave .gz out of its name"),
    "other": ("jsonl.zst", gzip.compress(LINES), "is gzip, not zstd, .* the suffix .gz"),
    "twice": ("jsonl.gz", gzip.compress(gzip.compress(LINES)), "is gzip, .* the suffix .gz"),
    "long": ("jsonl.zst", LONG_FRAME, "written with zstd --long or --ultra; compress it again"),
    "array": ("jsonl", json.dumps(OBJECTS).encode(), r"is one JSON array; .* jq -c '\.\[\]'"),
    "pretty": ("jsonl", PRETTY, "is one JSON array"),
    "packed array": ("jsonl.gz", gzip.compress(PRETTY), "is one JSON array"),
    "long array": ("jsonl", json.dumps(OBJECTS * 5000).encode(), "is one JSON array"),
    "long pretty": ("jsonl", json.dumps(OBJECTS * 5000, indent=1).encode(), "is one JSON array"),
    "objects": (
        *("jsonl", b"\xef\xbb\xbf" + json.dumps(OBJECTS[0], indent=2).encode() + b"\n" + LINES),
        "has objects of several lines, the first one of 4; write each .* jq -c",
    ),
}


def refusal(config: JobConfig) -> str:
    """Say why a job is refused."""
    backend = FakeBackend()
    with pytest.raises(InputError) as caught:
        run_job(config, backend)
    assert backend.opened == []
    return str(caught.value)


@pytest.mark.parametrize("name", MISTAKES)
def test_mistaken_file_is_told_before_anything_is_written(tmp_path: Path, name: str) -> None:
    """What a whole file is, and what to do, is one sentence; there is no state and no output."""
    suffix, content, words = MISTAKES[name]
    path = tmp_path / f"in.{suffix}"
    path.write_bytes(content)

    message = refusal(JobConfig((path,), tmp_path / "out.jsonl"))

    assert message.startswith(str(path))
    assert re.search(words, message)
    assert [*tmp_path.iterdir()] == [path]


def test_mistaken_standard_input_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is piped in is looked at before it is read, and leaves nothing behind."""
    piped = SimpleNamespace(buffer=io.BytesIO(gzip.compress(LINES)), isatty=lambda: False)
    monkeypatch.setattr(sys, "stdin", piped)

    message = refusal(JobConfig((STREAM,), tmp_path / "out.jsonl"))

    assert message.startswith("standard input is gzip, ")
    assert [*tmp_path.glob("*.jsonl"), *tmp_path.rglob("stdin*")] == []


@pytest.mark.parametrize(
    "first",
    [b"[", b"{", b"[]", b'[{"prompt": "x"}]', b'[{"prompt": "x"}', b'["a"]', b"[[{", b'{"prompt":'],
)
def test_wrong_first_line_is_one_wrong_line(tmp_path: Path, first: bytes) -> None:
    """A line that only begins like an array or an object stops no job."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(first + b"\n" + LINES)

    run_job(JobConfig((path,), tmp_path / "out.jsonl"), FakeBackend())

    assert ["error" in line for line in output(tmp_path)] == [True, False, False]


@pytest.mark.parametrize("first", [b"\xff\xfe{\0", b"\x1f\x8b\x08", b"<!DOCTYPE html>", b"{\0}\0"])
def test_line_among_requests_is_no_other_kind_of_file(tmp_path: Path, first: bytes) -> None:
    """Where there are requests, a line that begins as another kind of file is one wrong line."""
    path = tmp_path / "in.jsonl"
    path.write_bytes(first + b"\n" + LINES)

    run_job(JobConfig((path,), tmp_path / "out.jsonl"), FakeBackend())

    assert ["error" in line for line in output(tmp_path)] == [True, False, False]


def test_frames_of_several_programs_are_read(tmp_path: Path) -> None:
    """Skippable frames ahead of the first one, as pzstd writes them, are no mistake."""
    path = tmp_path / "in.jsonl.zst"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0size" + compressed("zstd"))

    run_job(JobConfig((path,), tmp_path / "out.jsonl"), FakeBackend())

    assert len(output(tmp_path)) == len(OBJECTS)
