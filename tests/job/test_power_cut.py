"""Laws of a ledger whose last bytes never reached the disk, or were damaged there."""

import random
import shutil
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import pytest

from aobatch.errors import InputError
from aobatch.job.ledger import Ledger, Record

GROUPS = 12
PER_GROUP = 5


def record(number: int) -> Record:
    """Give a record whose key and body follow from a number."""
    return Record(f"{number:032x}", 200, b'{"n":%d}' % number * (1 + number % 40), "m")


def body(ledger: Ledger, number: int) -> bytes | None:
    """Give what a ledger has of a record."""
    rows = ledger._rows("SELECT body FROM results WHERE key = ?", bytes.fromhex(record(number).key))
    return rows[0][0] if rows else None


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """Give the files of a ledger as a process that died left them, and where each group ends."""
    folder = tmp_path_factory.mktemp("crashed")
    ledger, ends = Ledger(folder / "ledger.sqlite3"), []
    for group in range(GROUPS):
        for number in range(group * PER_GROUP, (group + 1) * PER_GROUP):
            ledger.add(record(number))
        ledger.commit()
        ends.append((folder / "ledger.sqlite3-wal").stat().st_size)
    copy = tmp_path_factory.mktemp("copy")
    for path in folder.iterdir():
        shutil.copy(path, copy)
    ledger.close()
    return copy, ends


def survivors(folder: Path) -> list[int]:
    """Open a ledger and give the numbers of its records, each of which must be whole."""
    with closing(Ledger(folder / "ledger.sqlite3")) as ledger:
        numbers = [n for n in range(GROUPS * PER_GROUP) if record(n).key in ledger]
        assert [body(ledger, n) for n in numbers] == [record(n).body for n in numbers]
        assert len(ledger) == len(numbers)
    return numbers


@pytest.mark.parametrize("seed", range(60))
def test_cut_log_keeps_whole_groups_from_the_beginning(
    crashed: tuple[Path, list[int]], tmp_path: Path, seed: int
) -> None:
    """Wherever the log ends, is zero or garbage, what comes before it is kept, group by group."""
    folder = shutil.copytree(crashed[0], tmp_path / "state")
    chance = random.Random(seed)
    log = folder / "ledger.sqlite3-wal"
    data = bytearray(log.read_bytes())
    cut = chance.randrange(len(data))
    tail = len(data) - cut
    kind = seed % 3
    rest = [b"", bytes(tail), chance.randbytes(tail)][kind]
    log.write_bytes(bytes(data[:cut]) + rest)
    (folder / "ledger.sqlite3-shm").unlink()  # it lives in memory alone

    numbers = survivors(folder)

    assert numbers == [*range(len(numbers))]
    assert len(numbers) % PER_GROUP == 0
    assert len(numbers) // PER_GROUP == sum(end <= cut for end in crashed[1])


def test_lost_log_is_an_empty_ledger(crashed: tuple[Path, list[int]], tmp_path: Path) -> None:
    """Without its log the file is whole, and the next run begins where it stands."""
    folder = shutil.copytree(crashed[0], tmp_path / "state")
    (folder / "ledger.sqlite3-wal").unlink()
    (folder / "ledger.sqlite3-shm").unlink()

    assert survivors(folder) in ([], [*range(GROUPS * PER_GROUP)])


@pytest.mark.parametrize("seed", range(10))
def test_damaged_file_is_refused_or_whole(
    crashed: tuple[Path, list[int]], tmp_path: Path, seed: int
) -> None:
    """Bytes that change in the file itself end the job in one sentence, or are of no record."""
    folder = tmp_path / "state"
    shutil.copytree(crashed[0], folder)
    with closing(Ledger(folder / "ledger.sqlite3")):
        pass  # the log goes into the file
    path = folder / "ledger.sqlite3"
    data = bytearray(path.read_bytes())
    chance = random.Random(seed)
    start = chance.randrange(0, len(data) - 600)
    data[start : start + 512] = chance.randbytes(512)
    path.write_bytes(bytes(data))

    with suppress(InputError), closing(Ledger(path)) as ledger:
        for number in range(GROUPS * PER_GROUP):
            found = body(ledger, number)
            assert found is None or len(found) == len(record(number).body)


def test_log_is_flushed_before_a_commit_returns(tmp_path: Path) -> None:
    """The ledger asks SQLite for durability, not only for consistency."""
    with closing(Ledger(tmp_path / "ledger.sqlite3")) as ledger:
        (synchronous,) = ledger._rows("PRAGMA synchronous")[0]
        (mode,) = ledger._rows("PRAGMA journal_mode")[0]

    assert (synchronous, mode) == (2, "wal")
    assert sqlite3.sqlite_version_info >= (3, 35)
