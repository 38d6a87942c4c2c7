"""Laws of the ledger."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from waiting import HANG_SECONDS, wait_until

from aobatch.engine.config import EngineStatistics
from aobatch.errors import InputError, StorageError
from aobatch.executors import Statistics
from aobatch.job import ledger as module
from aobatch.job.ledger import Ledger, Line, Record
from aobatch.job.report.usage import Point


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of a ledger."""
    return tmp_path / "ledger.sqlite3"


@pytest.fixture
def ledger(path: Path) -> Iterator[Ledger]:
    """Give an empty ledger."""
    with closing(Ledger(path)) as ledger:
        yield ledger


def record(number: int, body: bytes = b"{}") -> Record:
    """Give a record whose key is a number."""
    return Record(f"{number:032x}", 200, body, "m", 2, 3, 0.25, 0.5, "stop,length")


def num_committed(path: Path) -> int:
    """Count the results that another process sees."""
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT count(*) FROM results").fetchone()[0])


def test_results_come_back_with_their_lines(ledger: Ledger) -> None:
    """In the order of the lines, and those without a result have none or their own error."""
    ledger.add(record(7, b"\x00 body"))
    keys = [bytes.fromhex(record(number).key) for number in (1, 7)]
    for line in (
        Line(1, None, False, status_code=400, error=b"{}"),
        Line(3, "id", True, keys[1], "m", "ada"),
        Line(4, None, False, keys[0], "m"),
    ):
        ledger.add_line(line)

    assert record(7).key in ledger
    assert record(1).key not in ledger
    assert ledger.last_line == 4
    assert list(ledger.answers()) == [
        (1, None, 0, None, None, None, 400, b"{}", *[None] * 5),
        (3, "id", 1, keys[1], "m", "ada", 200, b"\x00 body", 2, 3, 0.25, 0.5, "stop,length"),
        (4, None, 0, keys[0], "m", None, None, None, *[None] * 5),
    ]


def test_results_without_a_line_are_pruned(ledger: Ledger) -> None:
    """Lines of an earlier run keep none."""
    for number in (1, 2):
        ledger.add(record(number))
        ledger.add_line(Line(number, None, False, bytes.fromhex(record(number).key)))
    ledger.prune()
    assert len(ledger) == 2

    ledger.begin_lines(1, "other", [record(2).key])
    assert (len(ledger), ledger.num_used) == (2, 1)
    ledger.add_line(Line(1, None, False, bytes.fromhex(record(2).key)))
    ledger.prune()

    assert [record(number).key in ledger for number in (1, 2)] == [False, True]


def test_results_outlive_the_process(path: Path) -> None:
    """A ledger opened again has what was added before it was closed."""
    with closing(Ledger(path)) as ledger:
        ledger.add(record(1))

    with closing(Ledger(path)) as ledger:
        assert len(ledger) == 1


def test_first_result_of_a_key_stays(ledger: Ledger) -> None:
    """A result that comes twice does not replace the one that is known."""
    ledger.add(record(1, b"first"))
    ledger.add(record(1, b"second"))

    ledger.add_line(Line(1, None, False, bytes.fromhex(record(1).key)))
    assert [answer.body for answer in ledger.answers()] == [b"first"]


def test_repeated_first_result_opens_no_second_transaction(ledger: Ledger) -> None:
    """A group may begin with a result that changes nothing."""
    ledger.add(record(1))
    ledger.commit()

    for number in (1, 1, 2):
        ledger.add(record(number))

    assert len(ledger) == 2


def test_full_group_is_committed(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 results are durable without waiting for the second to pass."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", HANG_SECONDS)
    monkeypatch.setattr(module, "MOMENT_SECONDS", 0)
    for number in range(module.COMMIT_WRITES - 1):
        ledger.add(record(number))
    assert num_committed(path) < module.COMMIT_WRITES - 1

    ledger.add(record(module.COMMIT_WRITES))

    assert num_committed(path) == module.COMMIT_WRITES


def test_groups_that_come_at_once_share_a_commit(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Full groups within a moment wait for its end, and are found all the same."""
    for name in ("COMMIT_SECONDS", "MOMENT_SECONDS"):
        monkeypatch.setattr(module, name, HANG_SECONDS)
    for number in range(3 * module.COMMIT_WRITES):
        ledger.add(record(number))

    assert len(ledger) == 3 * module.COMMIT_WRITES
    assert num_committed(path) == 0
    monkeypatch.setattr(module, "MOMENT_SECONDS", 0)
    ledger.add(record(2**40))
    assert num_committed(path) == 3 * module.COMMIT_WRITES + 1


def test_lines_bring_no_commit_nearer(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand lines that are added leave a result to the next commit."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", HANG_SECONDS)
    ledger.add(record(1))
    for number in range(1000):
        ledger.add_line(Line(number, None, False))

    assert num_committed(path) == 0


def test_lone_result_is_committed_in_time(
    ledger: Ledger, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result becomes durable though no other one follows it."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", 0.05)
    ledger.add(record(1))

    wait_until(lambda: num_committed(path) == 1)


def test_statistics_add_up_over_runs(path: Path) -> None:
    """Counts of several runs are summed, and their wall time is measured."""
    for _ in range(2):
        with closing(Ledger(path)) as ledger:
            engine = EngineStatistics(decode_steps=3, decode_seconds=0.5)
            ledger.add_statistics(Statistics(engine=engine))

    with closing(Ledger(path)) as ledger:
        statistics = ledger.statistics
    assert statistics.engine == EngineStatistics(decode_steps=6, decode_seconds=1.0)
    assert statistics.wall_seconds > 0


def test_claim_names_what_differs(ledger: Ledger) -> None:
    """Settings of an earlier run hold; others are refused by name, new ones are added."""
    ledger.claim({"seed": "1", "mode": "raw"})
    ledger.claim({"seed": "1", "model": "fp"})

    with pytest.raises(
        InputError, match=r"other settings: seed \(was 1, is 2\), mode \(was raw, is x\)"
    ):
        ledger.claim({"seed": "2", "mode": "x", "model": "fp"})
    assert ledger.settings == {"seed": "1", "mode": "raw", "model": "fp"}


def test_foreign_file_is_refused(path: Path) -> None:
    """A file that is no database is an error in one sentence."""
    path.write_bytes(b"something else" * 100)

    with pytest.raises(InputError, match="--restart"):
        Ledger(path)


def test_other_version_is_refused(path: Path) -> None:
    """A ledger of a later version is not touched."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(InputError, match="another version"):
        Ledger(path)


@pytest.fixture
def full(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    """Give a ledger of one result that cannot grow, to which another one was added."""
    monkeypatch.setattr(module, "COMMIT_SECONDS", HANG_SECONDS)
    ledger.add(record(1))
    ledger.commit()
    ledger._connection.execute("PRAGMA max_page_count = 1")
    ledger.add(record(2, b"x" * 100_000))
    yield ledger
    ledger._failure = None


def test_full_disk_is_reported(full: Ledger) -> None:
    """A database that cannot grow ends the job with a storage error, not with lost results."""
    with pytest.raises(StorageError, match="make room"):
        full.commit()
    assert record(1).key in full


def test_failed_late_commit_stops_the_job(full: Ledger) -> None:
    """An error of the committing thread reaches the thread of the job."""
    full._commit_late()

    with pytest.raises(StorageError, match="full"):
        full.commit()


def test_a_failure_that_is_passed_over_stops_the_job(full: Ledger) -> None:
    """A point of the timeline is no reason to, but results that waited went with it."""
    with pytest.raises(StorageError):
        full.add_point(Point())

    with pytest.raises(StorageError, match="full"):
        full.commit()
