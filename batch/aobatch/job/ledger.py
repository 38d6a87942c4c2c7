"""The results of a job in SQLite: its only durable state while it runs."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aobatch.api.errors import shorten
from aobatch.errors import InputError, JobError, StorageError

COMMIT_SECONDS = 1.0
COMMIT_RESULTS = 256
SCHEMA_VERSION = 1

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE statistics (name TEXT PRIMARY KEY, value REAL NOT NULL);
CREATE TABLE results (
    key BLOB PRIMARY KEY,
    status_code INTEGER NOT NULL,
    body BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_COLUMNS = "status_code, body, prompt_tokens, completion_tokens, seconds"


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
    """Results by request key, committed in groups; its methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._num_pending = 0
        self._timer: threading.Timer | None = None
        self._failure: JobError | None = None
        self._counted = time.monotonic()
        with _storage_errors(path):
            self._connection = _connect(path)

    @property
    def settings(self) -> dict[str, str]:
        """What the results hang on, by name."""
        return dict(self._rows("SELECT name, value FROM settings"))

    @property
    def statistics(self) -> dict[str, float]:
        """Counts and seconds of all runs of the job; `wall_seconds` and those that were added."""
        self.commit()
        return dict(self._rows("SELECT name, value FROM statistics"))

    def __len__(self) -> int:
        """Count the results."""
        return int(self._rows("SELECT count(*) FROM results")[0][0])

    def __contains__(self, key: str) -> bool:
        """Say whether a request has its result."""
        return bool(self._rows("SELECT 1 FROM results WHERE key = ?", bytes.fromhex(key)))

    def find(self, key: str) -> Record | None:
        """Give the result of a request, None if it has none yet."""
        query = f"SELECT {_COLUMNS} FROM results WHERE key = ?"
        rows = self._rows(query, bytes.fromhex(key))
        return Record(key, *rows[0]) if rows else None

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
                f"{self._path.parent} holds the results of an unfinished job with another "
                f"{', '.join(differing)}; restore it, or discard them with --restart"
            )
            raise InputError(message)
        self._write("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())
        self.commit()

    def add(self, record: Record) -> None:
        """Keep a result; it is durable after the next commit, a second from now at most."""
        values = (record.status_code, record.body, record.prompt_tokens, record.completion_tokens)
        row = (bytes.fromhex(record.key), *values, record.seconds)
        self._write("INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?)", [row])

    def add_statistics(self, statistics: Mapping[str, float]) -> None:
        """Add counts and seconds to those of the job."""
        self._write(_ADD_STATISTIC, statistics.items())

    def commit(self) -> None:
        """Make everything added so far durable."""
        with self._lock, _storage_errors(self._path):
            self._commit()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        try:
            self.commit()
        finally:
            self._connection.close()

    def _rows(self, query: str, *values: bytes) -> list[tuple[Any, ...]]:
        with self._lock, _storage_errors(self._path):
            return self._connection.execute(query, values).fetchall()

    def _write(self, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
        with self._lock, _storage_errors(self._path):
            if not self._connection.in_transaction:
                self._begin()
            self._connection.executemany(statement, rows)
            self._num_pending += 1
            if self._num_pending >= COMMIT_RESULTS:
                self._commit()

    def _begin(self) -> None:
        if self._failure is not None:
            raise self._failure
        self._connection.execute("BEGIN IMMEDIATE")
        self._timer = threading.Timer(COMMIT_SECONDS, self._commit_late)
        self._timer.daemon = True
        self._timer.start()

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
            now = time.monotonic()
            self._connection.execute(_ADD_STATISTIC, ("wall_seconds", now - self._counted))
            self._connection.execute("COMMIT")
            self._counted, self._num_pending = now, 0


_ADD_STATISTIC = (
    "INSERT INTO statistics VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, path)
    except (sqlite3.Error, InputError):
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version not in {0, SCHEMA_VERSION}:
        message = f"{path} was written by another version of aobatch; discard it with --restart"
        raise InputError(message)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    if version == 0:
        connection.executescript(_SCHEMA)


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
