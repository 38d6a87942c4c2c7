"""The results of a job: its only durable state, kept so that no later run computes them again."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from aobatch.api.errors import shorten
from aobatch.errors import InputError
from aobatch.job.database import Database
from aobatch.job.timeline import Point

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE statistics (name TEXT PRIMARY KEY, value REAL NOT NULL);
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
_ADD_STATISTIC = (
    "INSERT INTO statistics VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"
)
_ADD_RESULT = "INSERT OR IGNORE INTO results VALUES (?, ?, ?, ?, ?, ?)"
_ADD_WALL_SECONDS = _ADD_STATISTIC.replace("?, ?", "'wall_seconds', ?")
_ADD_DEATH = "INSERT INTO deaths VALUES (?, 1) ON CONFLICT (key) DO UPDATE SET count = count + 1"


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
    def statistics(self) -> dict[str, float]:
        """Counts and seconds of all runs of the job; `wall_seconds` and those that were added."""
        self.commit()
        return dict(self._database.rows("SELECT name, value FROM statistics"))

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

    def add_statistics(self, statistics: Mapping[str, float]) -> None:
        """Add counts and seconds to those of the job."""
        self._database.write(_ADD_STATISTIC, statistics.items())

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
