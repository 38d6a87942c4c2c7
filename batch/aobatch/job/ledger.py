"""The results of a job: its only durable state, kept so that no later run computes them again."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from aobatch.api.errors import shorten
from aobatch.errors import InputError, JobError, StorageError
from aobatch.executors import Statistics
from aobatch.job.report.usage import Point

COMMIT_SECONDS = 1.0
COMMIT_WRITES = 256
"""So many writes are durable at once, but no sooner than a moment after those before them."""

MOMENT_SECONDS = 0.05
"""A flush of the disk takes milliseconds; a driver of many workers would wait for little else."""

MAX_ADDED_BYTES = 2**20
"""What may wait in memory for the rows after it."""

SqlValue: TypeAlias = str | int | float | bytes


class Database:
    """One connection; its methods may be called from any thread.

    StorageError if the file cannot be written, InputError if it is damaged or of another version.
    """

    def __init__(self, path: Path, schema: str, version: int, at_commit: str) -> None:
        """Open the file, or make it with a schema.

        Each commit executes `at_commit` with the seconds since the one before.
        """
        self._path = path
        self._at_commit = at_commit
        self._lock = threading.Lock()
        self._num_pending = 0
        self._added: list[tuple[SqlValue, ...]] = []
        self._num_bytes = 0
        self._add_statement = ""
        self._timer: threading.Timer | None = None
        self._failure: JobError | None = None
        self._counted = time.monotonic()
        with _storage_errors(path):
            self._connection = _connect(path, schema, version)

    def rows(self, query: str, *values: SqlValue) -> list[tuple[Any, ...]]:
        """Give all rows of a query."""
        with self._lock, _storage_errors(self._path):
            self._flush()
            return self._connection.execute(query, values).fetchall()

    def write(
        self, statement: str, rows: Iterable[tuple[SqlValue, ...]] = ((),), *, counts: bool = True
    ) -> None:
        """Execute a statement for each row, durable after the next commit; without rows, once.

        A write that does not count brings no commit nearer, but for the time that goes by.
        """
        with self._lock, _storage_errors(self._path):
            self._flush()
            if not self._connection.in_transaction:
                self._begin()
            self._connection.executemany(statement, rows)
            self._num_pending += counts
            self._commit_if_due()

    def add(self, statement: str, row: tuple[SqlValue, ...], num_bytes: int) -> None:
        """Execute a statement for one row, together with those that follow it."""
        with self._lock, _storage_errors(self._path):
            if statement != self._add_statement:
                self._flush()
                self._add_statement = statement
            if not self._connection.in_transaction:
                self._begin()
            self._added.append(row)
            self._num_bytes += num_bytes
            if self._num_bytes >= MAX_ADDED_BYTES:
                self._flush()
            self._num_pending += 1
            self._commit_if_due()

    def commit(self) -> None:
        """Make everything written so far durable."""
        with self._lock, _storage_errors(self._path):
            self._commit()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        try:
            self.commit()
        finally:
            self._connection.close()

    def _begin(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._connection.execute("BEGIN IMMEDIATE")
        self._timer = threading.Timer(COMMIT_SECONDS, self._commit_late)
        self._timer.daemon = True
        self._timer.start()

    def _flush(self) -> None:
        """Execute what was added."""
        if self._added:
            rows, self._added, self._num_bytes = self._added, [], 0
            self._connection.executemany(self._add_statement, rows)

    def _commit_if_due(self) -> None:
        is_due = self._num_pending >= COMMIT_WRITES
        if is_due and time.monotonic() - self._counted >= MOMENT_SECONDS:
            self._commit()

    def _commit_late(self) -> None:
        # A thread has nobody to raise to; the next call of the job's own thread does it.
        try:
            self.commit()
        except JobError as error:
            self._failure = error

    def _commit(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection.in_transaction:
            self._flush()
            now = time.monotonic()
            self._connection.execute(self._at_commit, (now - self._counted,))
            self._connection.execute("COMMIT")
            self._counted, self._num_pending = now, 0


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Read a database that another process may be writing, without changing it."""
    with _storage_errors(path), closing(sqlite3.connect(_uri(path), uri=True)) as connection:
        yield connection


def is_begun(path: Path) -> bool:
    """Say whether a database has its tables; the file is there for a moment without them."""
    if not path.exists():
        return False
    with reading(path) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version > 0


def _uri(path: Path) -> str:
    return f"{path.absolute().as_uri()}?mode=ro"


def _connect(path: Path, schema: str, version: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path, schema, version)
    except (sqlite3.Error, InputError):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path, schema: str, version: int) -> None:
    found = connection.execute("PRAGMA user_version").fetchone()[0]
    if found not in {0, version}:
        message = f"{path} was written by another version of aobatch; discard it with --restart"
        raise InputError(message)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    # Nothing is written outside the folder of the job.
    connection.execute("PRAGMA temp_store = MEMORY")
    if found == 0:
        script = f"BEGIN IMMEDIATE; {schema} PRAGMA user_version = {version}; COMMIT;"
        connection.executescript(script)


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        message = f"{path} cannot be kept: {error}; make room and run again"
        raise StorageError(message) from error
    except sqlite3.DatabaseError as error:
        message = f"{path} is damaged ({error}); discard it with --restart"
        raise InputError(message) from error


SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE statistics (name TEXT PRIMARY KEY, value NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE deaths (key BLOB PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE results (
    key BLOB PRIMARY KEY,
    status_code INTEGER NOT NULL,
    body BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL
);
CREATE TABLE points (
    run INTEGER, seconds REAL, lines INTEGER, prompt_tokens INTEGER, new_tokens INTEGER,
    rows INTEGER, slots INTEGER
);
"""
_ADD_POINT = "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?)"
_COLUMNS = "status_code, body, prompt_tokens, completion_tokens, seconds"
_STATISTICS = "SELECT name, value FROM statistics"
_ADD_STATISTIC = (
    "INSERT INTO statistics VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)
_ADD_RESULT = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?)"
_ADD_WALL_SECONDS = _ADD_STATISTIC.replace("?, ?", "'wall_seconds', ?")
_ADD_DEATH = "INSERT INTO deaths VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1"


def read_statistics(connection: sqlite3.Connection) -> Statistics:
    """Give what all runs of a job counted so far."""
    return Statistics.of(dict(connection.execute(_STATISTICS)))


@dataclass(frozen=True, slots=True)
class Record:
    """One finished request: a completion, or the error object it ended with, as JSON."""

    key: str
    status_code: int
    body: bytes
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0


class Ledger:
    """Results by request key, and what they hang on; its methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._database = Database(path, _SCHEMA, SCHEMA_VERSION, _ADD_WALL_SECONDS)

    @property
    def settings(self) -> dict[str, str]:
        """What the results hang on, by name."""
        return dict(self._database.rows("SELECT name, value FROM settings"))

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds of all runs of the job; `wall_seconds` and those that were added."""
        self.commit()
        return Statistics.of(dict(self._database.rows(_STATISTICS)))

    def __len__(self) -> int:
        """Count the results."""
        return int(self._database.rows("SELECT count(*) FROM results")[0][0])

    def __contains__(self, key: str) -> bool:
        """Say whether a request has its result."""
        return bool(self._database.rows("SELECT 1 FROM results WHERE key = ?", bytes.fromhex(key)))

    def find(self, key: str) -> Record | None:
        """Give the result of a request, None if it has none yet."""
        query = f"SELECT {_COLUMNS} FROM results WHERE key = ?"
        rows = self._database.rows(query, bytes.fromhex(key))
        return Record(key, *rows[0]) if rows else None

    def find_all(self, keys: Sequence[str]) -> dict[str, Record]:
        """Give the results that there are of some requests, by their keys."""
        places = ", ".join("?" * len(keys))
        query = f"SELECT key, {_COLUMNS} FROM results WHERE key IN ({places})"
        rows = self._database.rows(query, *map(bytes.fromhex, keys))
        return {key.hex(): Record(key.hex(), *values) for key, *values in rows}

    def claim(self, settings: Mapping[str, str]) -> None:
        """Bind the results to settings; InputError names those that differ from an earlier run."""
        known = self.settings
        differing = [
            f"{name} (was {shorten(known[name])}, is {shorten(value)})"
            for name, value in settings.items()
            if known.get(name, value) != value
        ]
        if differing:
            message = (
                f"{self._path.parent} holds the results of an unfinished job of other settings: "
                f"{', '.join(differing)}; restore it, or discard them with --restart"
            )
            raise InputError(message)
        self._database.write("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())
        self.commit()

    def unclaim(self, names: Iterable[str]) -> None:
        """Let go of settings that no result hangs on."""
        self._database.write("DELETE FROM settings WHERE name = ?", ((name,) for name in names))
        self.commit()

    def add(self, record: Record) -> None:
        """Keep a result; it is durable after the next commit, a second from now at most."""
        values = (record.status_code, record.body, record.prompt_tokens, record.completion_tokens)
        row = (bytes.fromhex(record.key), *values, record.seconds)
        self._database.add(_ADD_RESULT, row, len(record.body))

    def forget(self, keys: Iterable[str]) -> None:
        """Discard the results of these requests."""
        rows = ((bytes.fromhex(key),) for key in keys)
        self._database.write("DELETE FROM results WHERE key = ?", rows)
        self.commit()

    def forget_failures(self) -> None:
        """Discard the results that are errors, and what is known of processes that died."""
        self._database.write("DELETE FROM results WHERE status_code <> 200")
        self._database.write("DELETE FROM deaths")
        self.commit()

    def keep_only(self, keys: Iterable[str]) -> None:
        """Discard the results of all other requests."""
        self._database.write("CREATE TEMP TABLE kept (key BLOB PRIMARY KEY)")
        rows = ((bytes.fromhex(key),) for key in keys)
        self._database.write("INSERT OR IGNORE INTO kept VALUES (?)", rows)
        self._database.write("DELETE FROM results WHERE key NOT IN kept")
        self._database.write("DROP TABLE kept")
        self.commit()

    def add_statistics(self, statistics: Statistics) -> None:
        """Add counts and seconds to those of the job."""
        self._database.write(_ADD_STATISTIC, statistics.numbers().items())

    def note(self, facts: Mapping[str, int]) -> None:
        """Keep numbers for those who ask how far the job is, in place of earlier ones."""
        # Each bad line is noted, and none is worth a flush of the disk.
        statement = "INSERT OR REPLACE INTO facts VALUES (?, ?)"
        self._database.write(statement, facts.items(), counts=False)

    def points(self) -> list[Point]:
        """Give the points of the timeline, in their order."""
        rows = self._database.rows("SELECT * FROM points ORDER BY rowid")
        return [Point(*row) for row in rows]

    def add_point(self, point: Point) -> None:
        """Add a point to the timeline."""
        self._database.write(_ADD_POINT, [point])

    def replace_points(self, points: Iterable[Point]) -> None:
        """Keep these points in place of all others."""
        self._database.write("DELETE FROM points")
        self._database.write(_ADD_POINT, points)

    def add_deaths(self, keys: Iterable[str]) -> None:
        """Note at once that a process died while it computed these requests."""
        self._database.write(_ADD_DEATH, ((bytes.fromhex(key),) for key in keys))
        self.commit()

    def suspects(self, num_deaths: int) -> set[str]:
        """Give the requests that so many processes died of, perhaps."""
        query = "SELECT key FROM deaths WHERE count >= ? AND key NOT IN (SELECT key FROM results)"
        return {key.hex() for (key,) in self._database.rows(query, num_deaths)}

    def commit(self) -> None:
        """Make everything added so far durable."""
        self._database.commit()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        self._database.close()
