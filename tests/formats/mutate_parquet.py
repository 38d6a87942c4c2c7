"""A process that reads damaged Parquet files one after the other, and dies of what goes wrong."""

import random
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "damage"))

import pyarrow as pa
import pyarrow.parquet as pq
from damaged_files import try_seeds
from tables import TYPES, parse_rows

from aobatch.api.request import FailedLine, Request
from aobatch.errors import InputError
from aobatch.formats import parquet
from aobatch.formats.parquet_fields import Columns

NUM_ROWS = 40
TAIL = 8
"""Bytes at the end of a file: how long its footer is, and the magic."""

KINDS: tuple[dict[str, Any], ...] = (
    {"compression": "none", "use_dictionary": False},
    {"compression": "snappy", "data_page_size": 100},
    {"compression": "zstd", "write_page_checksum": True},
    {"compression": "gzip", "data_page_version": "2.0", "row_group_size": 7},
    {"compression": "lz4", "write_page_index": True, "store_schema": False},
    {"compression": "brotli", "use_dictionary": ["custom_id"], "row_group_size": 1},
    {
        "use_dictionary": False,
        "column_encoding": {
            "max_tokens": "DELTA_BINARY_PACKED",
            "prompt": "DELTA_BYTE_ARRAY",
            "user": "DELTA_LENGTH_BYTE_ARRAY",
            "temperature": "BYTE_STREAM_SPLIT",
        },
    },
)
"""Files of the same rows that are written in different ways."""


def whole(kind: dict[str, Any]) -> bytes:
    """Write a file with a column of each type."""
    cells = {
        "prompt": [f"prompt {row % 5} " * (row % 4) for row in range(NUM_ROWS)],
        "custom_id": [f"id-{row}" for row in range(NUM_ROWS)],
        "max_tokens": [row or None for row in range(NUM_ROWS)],
        "temperature": [row / NUM_ROWS for row in range(NUM_ROWS)],
        "echo": [row % 3 == 0 for row in range(NUM_ROWS)],
        "stop": [["a", None, "b"][: row % 4] or None for row in range(NUM_ROWS)],
        "stop_token_ids": [[row] * (row % 3) for row in range(NUM_ROWS)],
        "logit_bias": [[(str(row), 1.0)] * (row % 2) for row in range(NUM_ROWS)],
        "stream_options": [{"include_usage": row % 2 == 0} for row in range(NUM_ROWS)],
        "user": ["ada" if row % 2 else None for row in range(NUM_ROWS)],
    }
    columns = {name: pa.array(values, TYPES[name]) for name, values in cells.items()}
    stream = BytesIO()
    pq.write_table(pa.table(columns), stream, **kind)
    return stream.getvalue()


def mutated(file: bytes, seed: int) -> bytes:
    """Damage a file in one of five ways, in its footer as often as in its pages."""
    chance = random.Random(seed)
    data = bytearray(file)
    damage = (flip, shorten, overstate, splice, repeat)[seed % 5]
    for _ in range(chance.choice((1, 1, 1, 3))):
        footer = len(data) - TAIL - int.from_bytes(data[-TAIL:-4], "little")
        footer = footer if 4 < footer < len(data) - TAIL else len(data) // 2
        start, end = chance.choice(((4, footer), (footer, len(data) - TAIL), (0, len(data))))
        damage(data, start, max(end, start + 1), chance)
    return bytes(data)


def flip(data: bytearray, start: int, end: int, chance: random.Random) -> None:
    """Change some bytes."""
    for _ in range(chance.randint(1, 4)):
        data[chance.randrange(start, end)] ^= 1 << chance.randrange(8)


def shorten(data: bytearray, start: int, end: int, chance: random.Random) -> None:
    """Take out a piece; sometimes put zeros in its place, mostly keep the end of the file."""
    place, length = chance.randrange(start, end), chance.choice((1, 2, 5, 20, 200, len(data)))
    tail = bytes(data[-TAIL:])
    filling = bytes(min(length, len(data) - place)) if chance.random() < 0.5 else b""
    data[place : place + length] = filling
    if chance.random() < 0.8:
        data[-TAIL:] = tail


def overstate(data: bytearray, start: int, end: int, chance: random.Random) -> None:
    """Put a number of many bytes where lengths, counts, kinds and sizes are."""
    size = chance.choice((1, 2, 3, 5, 9, 10))
    place = chance.randrange(start, end)
    value = chance.choice((b"\xff" * (size - 1) + b"\x7f", b"\x80" * size, b"\xfe\x7f", b"\x00"))
    data[place : place + len(value)] = value


def splice(data: bytearray, start: int, end: int, chance: random.Random) -> None:
    """Copy a piece of the file over another one, or between two others."""
    source, goal = chance.randrange(len(data)), chance.randrange(start, end)
    piece = bytes(data[source : source + chance.randint(1, 64)])
    replaced = chance.choice((0, len(piece), len(piece)))
    data[goal : goal + replaced] = piece


def repeat(data: bytearray, start: int, end: int, chance: random.Random) -> None:
    """Say a small number wrong by one or two, or by a sign."""
    for _ in range(chance.randint(1, 3)):
        place = chance.randrange(start, end)
        data[place] = (data[place] + chance.choice((-2, -1, 1, 2))) % 256


def attempt(path: Path) -> str:
    """Read a file as a job does, and say with which outcome."""
    try:
        columns = Columns(ignores_unknown=True, optional=frozenset({"prompt"}))
        num_rows = parquet.check(path, columns).num_rows
        parsed = parse_rows(path, columns)
    except InputError:
        return "InputError"
    metadata = pq.read_metadata(path)
    stated = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    assert num_rows == sum(stated)
    assert [line.line for line in parsed] == list(range(1, sum(stated) + 1))
    assert {type(line) for line in parsed} <= {Request, FailedLine}
    return "read"


def main(folder: str, first: str, count: str) -> None:
    """Try seeds, and say what became of each."""
    path = Path(folder) / "mutated.parquet"
    files = [whole(kind) for kind in KINDS]

    def attempt_seed(seed: int) -> str:
        path.write_bytes(mutated(files[seed // 5 % len(files)], seed))
        return attempt(path)

    for file in files:
        path.write_bytes(file)
        assert attempt(path) == "read"  # and loads what is imported late
    # Time of the processor, which the suite may have to share.
    try_seeds(int(first), int(count), attempt_seed)


if __name__ == "__main__":
    main(*sys.argv[1:])
