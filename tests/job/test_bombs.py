"""Laws of small files that expand to much: memory stays bounded, and each line is one error."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from fakes import FakeBackend
from job_files import PROMPTS, measure_all, output, requests

from aobatch.errors import InputError
from aobatch.formats import COMPRESSIONS
from aobatch.job.config import JobConfig
from aobatch.job.runner import run_job

GOOD = b'{"prompt":"good"}\n'
MIB = 2**20


def compress(path: Path, *parts: bytes) -> Path:
    """Write parts, each compressed by itself, so that repeated ones are compressed once."""
    codec = COMPRESSIONS[path.suffix]
    known: dict[bytes, bytes] = {}
    for part in parts:
        if part not in known:
            sink = pa.BufferOutputStream()
            with pa.output_stream(sink, compression=codec) as stream:
                stream.write(part)
            known[part] = sink.getvalue().to_pybytes()
    path.write_bytes(b"".join(known[part] for part in parts))
    return path


def test_bomb_of_one_line_is_one_error(tmp_path: Path) -> None:
    """A few KB that hold a line of 100 MiB between two good ones take no more than two limits."""
    parts = (GOOD, *[b"[" * MIB] * 100, b"\n" + GOOD)
    paths = [compress(tmp_path / f"in{suffix}.jsonl{suffix}", *parts) for suffix in COMPRESSIONS]

    for path, taken in zip(paths, measure_all(paths), strict=True):
        assert path.stat().st_size < MIB
        assert (taken["total"], taken["by_code"]) == (3, {"line_too_long": 1}), path.name
        assert taken["growth"] <= 32 * MIB, path.name


def test_line_of_100_mebibytes_is_one_error(tmp_path: Path) -> None:
    """The same line in a plain file, without its end."""
    path = tmp_path / "in.jsonl"
    with path.open("wb") as stream:
        stream.write(GOOD)
        stream.truncate(100 * MIB)

    (taken,) = measure_all([path])

    assert (taken["total"], taken["by_code"]) == (2, {"line_too_long": 1})
    assert taken["growth"] <= 32 * MIB


def test_bomb_of_blank_lines_is_nothing(tmp_path: Path) -> None:
    """Millions of blank lines take neither memory nor output lines."""
    paths = [
        compress(tmp_path / f"{name}.jsonl.zst", *[end * (MIB // len(end))] * size, GOOD)
        for name, end, size in (("lf", b"\n", 4), ("crlf", b"\r\n", 1), ("spaces", b" \t\n", 1))
    ]

    for path, taken in zip(paths, measure_all(paths), strict=True):
        assert (taken["total"], taken["by_code"]) == (1, {}), path.name
        assert taken["growth"] <= 32 * MIB, path.name


@pytest.mark.parametrize("count", [60_000, pytest.param(100_000, marks=pytest.mark.long)])
def test_bomb_of_tiny_lines_is_as_many_errors(tmp_path: Path, count: int) -> None:
    """Many thousand lines of one byte are as many errors, none of which is kept in memory."""
    path = compress(tmp_path / "in.jsonl.gz", b"x\n" * count)

    (taken,) = measure_all([path])

    assert taken["by_code"] == {"invalid_json_line": count}
    assert taken["growth"] <= 16 * MIB


LONGEST = {
    "arrays": (b"[],", "line_too_long"),
    "strings": (b'"ab",', "line_too_long"),
    "brackets": (b"[", "too_deep"),
    "bytes": (b"\xff", "invalid_utf8"),
    "digits": (b"1", "invalid_json_line"),
}


def test_longest_line_takes_bounded_memory(tmp_path: Path) -> None:
    """A line just below the limit does not take many times its length, whatever it is made of."""
    paths = []
    for name, (part, _) in LONGEST.items():
        line = b'{"prompt":[' + part * ((16 * MIB - 20) // len(part)) + b'""]}\n'
        paths.append(compress(tmp_path / f"{name}.jsonl.zst", line))

    for (_, code), path, taken in zip(LONGEST.values(), paths, measure_all(paths), strict=True):
        assert taken["by_code"] == {code: 1}, path.name
        assert taken["growth"] <= 100 * MIB, path.name


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_damaged_file_publishes_nothing_and_loses_nothing(tmp_path: Path, suffix: str) -> None:
    """A file that is cut off ends the job; what was computed serves the run that has it whole."""
    lines = [json.dumps(line).encode() + b"\n" for line in requests(PROMPTS)]
    path = compress(tmp_path / f"in.jsonl{suffix}", *lines)
    whole = path.read_bytes()

    def run_compressed(backend: FakeBackend) -> None:
        run_job(JobConfig((path,), tmp_path / "out.jsonl"), backend)

    with pytest.raises(KeyboardInterrupt):
        run_compressed(FakeBackend(explosion=KeyboardInterrupt(), explodes_at=4))
    path.write_bytes(whole[:-3])
    idle = FakeBackend()
    with pytest.raises(InputError, match="cannot be read to its end"):
        run_compressed(idle)
    assert idle.opened == []
    assert not (tmp_path / "out.jsonl").exists()

    path.write_bytes(whole)
    backend = FakeBackend()
    run_compressed(backend)
    assert len(backend.computed) == len(PROMPTS) - 4
    assert len(output(tmp_path)) == len(PROMPTS)
