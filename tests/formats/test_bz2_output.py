"""Laws of bz2 outputs: the bytes that went in, the same file whatever the number of threads."""

import bz2
import io
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from aobatch.formats import read_records, write_records
from aobatch.formats.compression import BLOCK_BYTES, compressed_bz2


def written(pieces: list[bytes], num_threads: int) -> bytes:
    """Compress pieces one after another."""
    stream = io.BytesIO()
    compress_into(stream, pieces, num_threads)
    return stream.getvalue()


def compress_into(stream: BinaryIO, pieces: Iterable[bytes], num_threads: int = 2) -> None:
    """Compress pieces into a stream."""
    with compressed_bz2(stream, num_threads) as writer:
        for piece in pieces:
            assert writer.write(piece) == len(piece)


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2_000_000])
def test_file_is_the_same_for_any_threads_and_pieces(size: int) -> None:
    """Blocks are cut by their bytes alone, and Python's own reader has all of them back."""
    draw = random.Random(size)
    data = draw.randbytes(size // 20).hex().encode().ljust(size, b"x")
    cuts = sorted(draw.choices(range(size + 1), k=50))
    pieces = [data[start:end] for start, end in zip([0, *cuts], [*cuts, size], strict=True)]

    files = {written(parts, threads) for parts in ([data], pieces) for threads in (1, 2, 5)}

    (file,) = files
    assert bz2.decompress(file) == data
    assert file


def test_written_records_are_read(tmp_path: Path) -> None:
    """Records of all sizes, of several blocks too, come back in their order."""
    records = [b"%d" % number * (number % 300) + b"." for number in range(3000)]
    records.append(b"long" * BLOCK_BYTES)
    path = tmp_path / "out.jsonl.bz2"
    with path.open("wb") as stream:
        write_records(records, stream, path)

    assert list(read_records(path)) == records


class Full(io.BytesIO):
    """A disk without room."""

    def write(self, _data: object) -> int:
        """Refuse."""
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("num_blocks", [0, 1, 20])
def test_full_disk_is_an_error(num_blocks: int) -> None:
    """What the stream below refuses is told, at the latest at the end."""
    with pytest.raises(OSError, match="No space"):
        compress_into(Full(), [bytes(BLOCK_BYTES)] * num_blocks)


def test_failure_ahead_of_the_end_writes_no_more() -> None:
    """Where the records themselves break off, what was begun is not finished behind them."""

    def break_off() -> Iterator[bytes]:
        yield b"begun"
        raise KeyboardInterrupt

    stream = io.BytesIO()
    with pytest.raises(KeyboardInterrupt):
        compress_into(stream, break_off())

    assert stream.getvalue() == b""
