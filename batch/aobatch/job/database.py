"""An SQLite file that is written in groups, each durable a second after its first write at most."""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from aobatch.errors import InputError, JobError, StorageError

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
