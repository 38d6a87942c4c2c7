"""The results of a job: its only durable state, kept so that no later run computes them again.

An SQLite file, written ahead. Results are kept by the keys of their requests and outlive the run;
the lines of the inputs are kept by their numbers, anew in each run, so that publishing needs no
input. Rows are inserted in groups, and durable a second after they were added at the latest.
"""

import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

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

SCHEMA_VERSION = 4

_SCHEMA = f"""
BEGIN IMMEDIATE;
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE statistics (name TEXT PRIMARY KEY, value NOT NULL);
CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE deaths (key BLOB PRIMARY KEY, count INTEGER NOT NULL);
CREATE TABLE results (
    key BLOB PRIMARY KEY,
    status_code INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    seconds REAL NOT NULL,
    waited REAL NOT NULL,
    is_used INTEGER NOT NULL DEFAULT 1,
    model TEXT NOT NULL,
    finish_reasons TEXT NOT NULL,
    body BLOB NOT NULL
);
CREATE TABLE lines (
    number INTEGER PRIMARY KEY, custom_id TEXT, is_envelope INTEGER NOT NULL,
    key BLOB, model TEXT, user TEXT, status_code INTEGER, error BLOB
);
CREATE VIEW failed_lines AS SELECT * FROM lines
    WHERE status_code IS NOT NULL AND (key IS NULL OR key NOT IN (SELECT key FROM results));
CREATE TABLE points (
    run INTEGER, seconds REAL, lines INTEGER, prompt_tokens INTEGER, new_tokens INTEGER,
    rows INTEGER, slots INTEGER
);
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""
_ADD_POINT = "INSERT INTO points VALUES (?, ?, ?, ?, ?, ?, ?)"
_STATISTICS = "SELECT name, value FROM statistics"
_ADD_STATISTIC = (
    "INSERT INTO statistics VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)
_ADD_RESULT = """
INSERT OR IGNORE INTO results (
    key, status_code, body, model, prompt_tokens, completion_tokens, seconds, waited,
    finish_reasons
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
"""
_ADD_LINE = "INSERT INTO lines VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_ADD_WALL_SECONDS = _ADD_STATISTIC.replace("?, ?", "'wall_seconds', ?")
_ADD_DEATH = "INSERT INTO deaths VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1"
_ANSWERS = """
SELECT number, custom_id, is_envelope, lines.key, coalesce(results.model, lines.model), user,
       coalesce(results.status_code, lines.status_code), coalesce(body, error),
       prompt_tokens, completion_tokens, seconds, waited, finish_reasons
FROM lines LEFT JOIN results ON results.key = lines.key
WHERE NOT ? OR coalesce(results.status_code, lines.status_code) IS NOT 200
ORDER BY number
"""

SqlValue: TypeAlias = str | int | float | bytes | None


class Record(NamedTuple):
    """One finished request: a completion, or the error object it ended with, as JSON."""

    key: str
    status_code: int
    body: bytes
    model: str
    """As the request asked for it."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    finish_reasons: str = ""
    """Of all choices, with commas between them."""


class Line(NamedTuple):
    """What publishing needs of an input line."""

    number: int
    custom_id: str | None
    is_envelope: bool
    key: bytes | None = None
    """None if it is no request."""
    model: str | None = None
    user: str | None = None
    status_code: int | None = None
    """Of a line that failed without a model."""
    error: bytes | None = None
    """Its error object as JSON."""


class Answer(NamedTuple):
    """A line with its result, if it has one."""

    number: int
    custom_id: str | None
    is_envelope: int
    key: bytes | None
    model: str | None
    user: str | None
    status_code: int | None
    body: bytes | None
    """The completion or error object as JSON."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    waited: float
    finish_reasons: str


class Ledger:
    """Results by request key, and what they depend on; its methods may be called from any thread.

    StorageError if the file cannot be written, InputError if it is damaged or of another version.
    """

    def __init__(self, path: Path) -> None:
        self.last_line = 0
        """The number of the last line that was added."""
        self._path = path
        self._lock = threading.Lock()
        self._added: dict[str, list[tuple[SqlValue, ...]]] = {_ADD_RESULT: [], _ADD_LINE: []}
        self._num_bytes = 0
        self._num_writes = 0
        self._timer: threading.Timer | None = None
        self._failure: JobError | None = None
        self._committed = time.monotonic()
        with _storage_errors(path):
            self._connection = _connect(path)

    @property
    def settings(self) -> dict[str, str]:
        """What the results depend on, by name."""
        return dict(self._rows("SELECT name, value FROM settings"))

    @property
    def statistics(self) -> Statistics:
        """Counts and seconds of all runs of the job; `wall_seconds` and those that were added."""
        self.commit()
        return Statistics.of(dict(self._rows(_STATISTICS)))

    def __len__(self) -> int:
        """Count the results."""
        return int(self._rows("SELECT count(*) FROM results")[0][0])

    @property
    def num_used(self) -> int:
        """Count the results of lines that are still there."""
        return int(self._rows("SELECT count(*) FROM results WHERE is_used")[0][0])

    def __contains__(self, key: str) -> bool:
        """Say whether a request has its result."""
        return bool(self._rows("SELECT 1 FROM results WHERE key = ?", bytes.fromhex(key)))

    def has_results_of(self, names: Iterable[str]) -> bool:
        """Say whether there is a result of a model under one of its names."""
        query = "SELECT 1 FROM results WHERE model = ? LIMIT 1"
        return any(self._rows(query, name) for name in names)

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
        self._write("INSERT OR IGNORE INTO settings VALUES (?, ?)", settings.items())
        self.commit()

    def unclaim(self, names: Iterable[str]) -> None:
        """Let go of settings that no result depends on."""
        self._write("DELETE FROM settings WHERE name = ?", ((name,) for name in names))
        self.commit()

    def add(self, record: Record) -> None:
        """Keep a result; it is durable after the next commit, a second from now at most."""
        row = (bytes.fromhex(record.key), *record[1:])
        self._add(_ADD_RESULT, row, len(record.body), counts=True)

    def begin_lines(self, total: int, inputs: str, keys: Iterable[str]) -> None:
        """Forget the lines of an earlier run, and note how many there will be for who asks.

        If the inputs, by what identifies them, are others than those of that run, its results count
        only as far as one of the keys of all requests is theirs.
        """
        if len(self) and self.settings.get("inputs") != inputs:
            self._write("UPDATE results SET is_used = 0")
            rows = ((bytes.fromhex(key),) for key in keys)
            self._write("UPDATE results SET is_used = 1 WHERE key = ?", rows)
        self._write("INSERT OR REPLACE INTO settings VALUES ('inputs', ?)", [(inputs,)])
        self._write("DELETE FROM lines")
        self._write("INSERT OR REPLACE INTO facts VALUES ('lines', ?)", [(total,)])
        self.last_line = 0

    def add_line(self, line: Line) -> None:
        """Keep a line; those of a run come in their order."""
        self.last_line = line.number
        # Each run writes them anew, and none is worth a flush of the disk.
        self._add(_ADD_LINE, line, len(line.error or b"") + 100, counts=False)

    def answers(self, *, are_failures: bool = False) -> Iterator[Answer]:
        """Yield the lines in their order, each with its result; or those alone that failed."""
        self.commit()
        with reading(self._path) as connection:
            yield from map(Answer._make, connection.execute(_ANSWERS, (are_failures,)))

    def numbers(self, *, are_failures: bool = False) -> Iterator[int]:
        """Yield the numbers of the lines in their order, or of those alone that failed."""
        self.commit()
        with reading(self._path) as connection:
            for row in connection.execute(_ANSWERS, (are_failures,)):
                yield row[0]

    def keys(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the key of each line that is a request."""
        self.commit()
        query = "SELECT number, key FROM lines WHERE key IS NOT NULL ORDER BY number"
        with reading(self._path) as connection:
            yield from ((number, key.hex()) for number, key in connection.execute(query))

    def prune(self) -> None:
        """Discard the results of lines that are no longer there."""
        if len(self) > int(self._rows("SELECT count(key) FROM lines")[0][0]):
            keys = "SELECT key FROM lines WHERE key IS NOT NULL"
            self._write(f"DELETE FROM results WHERE key NOT IN ({keys})")
            self.commit()

    def forget(self, keys: Iterable[str]) -> None:
        """Discard the results of these requests."""
        self._write("DELETE FROM results WHERE key = ?", ((bytes.fromhex(key),) for key in keys))
        self.commit()

    def forget_failures(self) -> None:
        """Discard the results that are errors, and what is known of processes that died."""
        self._write("DELETE FROM results WHERE status_code <> 200")
        self._write("DELETE FROM deaths")
        self.commit()

    def add_statistics(self, statistics: Statistics) -> None:
        """Add counts and seconds to those of the job."""
        self._write(_ADD_STATISTIC, statistics.numbers().items())

    def points(self) -> list[Point]:
        """Read the points of the timeline, in their order."""
        return [Point(*row) for row in self._rows("SELECT * FROM points ORDER BY rowid")]

    def add_point(self, point: Point) -> None:
        """Add a point to the timeline."""
        self._write(_ADD_POINT, [point])

    def replace_points(self, points: Iterable[Point]) -> None:
        """Keep these points in place of all others."""
        self._write("DELETE FROM points")
        self._write(_ADD_POINT, points)

    def add_deaths(self, keys: Iterable[str]) -> None:
        """Note at once that a process died while it computed these requests."""
        self._write(_ADD_DEATH, ((bytes.fromhex(key),) for key in keys))
        self.commit()

    def suspects(self, num_deaths: int) -> set[str]:
        """Find the requests that so many processes died of, perhaps."""
        query = "SELECT key FROM deaths WHERE count >= ? AND key NOT IN (SELECT key FROM results)"
        return {key.hex() for (key,) in self._rows(query, num_deaths)}

    def commit(self) -> None:
        """Make everything added so far durable."""
        with self._lock, self._writing():
            self._commit()

    def close(self) -> None:
        """Make everything durable and let go of the file."""
        try:
            self.commit()
        finally:
            self._connection.close()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Keep a failure: what was added before may be lost with it, whoever passes over it."""
        try:
            with _storage_errors(self._path):
                yield
        except JobError as error:
            self._failure = error
            raise

    def _rows(self, query: str, *values: SqlValue) -> list[tuple[Any, ...]]:
        with self._lock, self._writing():
            self._flush()
            return self._connection.execute(query, values).fetchall()

    def _write(self, statement: str, rows: Iterable[tuple[SqlValue, ...]] = ((),)) -> None:
        """Execute a statement for each row; without rows, once."""
        with self._lock, self._writing():
            self._flush()
            self._begin()
            self._connection.executemany(statement, rows)
            self._commit_if_due()

    def _add(
        self, statement: str, row: tuple[SqlValue, ...], num_bytes: int, *, counts: bool
    ) -> None:
        """Execute a statement for one row, together with those that follow it.

        A row that does not count brings no commit nearer, but for the time that goes by.
        """
        with self._lock, self._writing():
            self._begin()
            self._added[statement].append(row)
            self._num_bytes += num_bytes
            if self._num_bytes >= MAX_ADDED_BYTES:
                self._flush()
            if counts:
                self._commit_if_due()

    def _begin(self) -> None:
        if self._connection.in_transaction:
            return
        if self._failure is not None:
            raise self._failure
        self._connection.execute("BEGIN IMMEDIATE")
        self._timer = threading.Timer(COMMIT_SECONDS, self._commit_late)
        self._timer.daemon = True
        self._timer.start()

    def _flush(self) -> None:
        for statement, rows in self._added.items():
            if rows:
                self._added[statement] = []
                self._connection.executemany(statement, rows)
        self._num_bytes = 0

    def _commit_if_due(self) -> None:
        self._num_writes += 1
        is_due = self._num_writes >= COMMIT_WRITES
        if is_due and time.monotonic() - self._committed >= MOMENT_SECONDS:
            self._commit()

    def _commit_late(self) -> None:
        # A thread has nobody to raise to; the next call of the job's own thread does it.
        with suppress(JobError):
            self.commit()

    def _commit(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._connection.in_transaction:
            self._flush()
            now = time.monotonic()
            self._connection.execute(_ADD_WALL_SECONDS, (now - self._committed,))
            self._connection.execute("COMMIT")
            self._committed, self._num_writes = now, 0


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Read a ledger that another process may be writing, without changing it."""
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with _storage_errors(path), closing(sqlite3.connect(uri, uri=True)) as connection:
        yield connection


def read_answers(path: Path) -> Iterator[Answer]:
    """Read the lines of a ledger that another process may be writing."""
    with reading(path) as connection:
        yield from map(Answer._make, connection.execute(_ANSWERS, (False,)))


def read_statistics(connection: sqlite3.Connection) -> Statistics:
    """Read what all runs of a job counted so far."""
    return Statistics.of(dict(connection.execute(_STATISTICS)))


def is_begun(path: Path) -> bool:
    """Say whether a ledger has its tables; the file is there for a moment without them."""
    if not path.exists():
        return False
    with reading(path) as connection:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return version > 0


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
    # Nothing is written outside the folder of the job.
    connection.execute("PRAGMA temp_store = MEMORY")
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
