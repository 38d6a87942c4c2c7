"""Jobs of crash tests, seen from outside: their command, their files, what they recorded."""

import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from waiting import HANG_SECONDS

REAL_COMMAND = (sys.executable, "-m", "aobatch")
LOGGED_COMMAND = (sys.executable, str(Path(__file__).with_name("logged_command.py")))
FIXED_START = {"SOURCE_DATE_EPOCH": "1700000000"}


@dataclass(frozen=True)
class CrashJob:
    """A job in a folder of its own; what its runs say and note lies in another folder."""

    folder: Path
    backend: str
    """What logged_command.py takes, `local` or a pace, or `real` for the command itself."""
    options: tuple[str, ...] = ()
    is_noted: bool = True
    """Whether what the executors are asked for is kept."""
    is_piped: bool = False
    """Whether the input comes through standard input."""
    death: str = ""
    """Where runs of a form of the command die: a kind of call, its number and whether behind it."""
    limit: int | None = None
    """How large files of runs of a form of the command may become, if there is a bound."""

    @property
    def source(self) -> Path:
        """The input."""
        return self.folder / "in.jsonl"

    @property
    def output(self) -> Path:
        """The output."""
        return self.folder / "out.jsonl"

    @property
    def state(self) -> Path:
        """The state folder."""
        return self.folder / "out.jsonl.aobatch"

    @property
    def log(self) -> Path:
        """What the executors were asked for, over all runs."""
        return self._beside("log") if self.is_noted else Path(os.devnull)

    @property
    def messages(self) -> Path:
        """What the last run said on standard error."""
        return self._beside("stderr")

    @property
    def command(self) -> tuple[str, ...]:
        """The command line of every run; failed lines do not make it fail."""
        source = "-" if self.is_piped else str(self.source)
        logged = (*LOGGED_COMMAND, str(self.log), self.backend)
        command = REAL_COMMAND if self.backend == "real" else logged
        files = ("run", source, "-o", str(self.output))
        return (*command, *files, "--max-failures", "100%", *self.options)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every run."""
        limit = "" if self.limit is None else str(self.limit)
        return os.environ | FIXED_START | {"DEATH": self.death, "FILE_LIMIT": limit}

    def start(self, *before: str) -> subprocess.Popen[bytes]:
        """Start a run, in the hands of another command if one is given."""
        with self._input() as requests, self.messages.open("wb") as messages:
            return subprocess.Popen(
                [*before, *self.command],
                stdin=requests,
                stdout=messages,
                stderr=messages,
                env=self.environment,
            )

    def run(self, *before: str) -> int:
        """Run to the end, in the hands of another command if one is given; give the exit code."""
        with self._input() as requests:
            # Through a pipe, so that what is said is never short of room.
            done = subprocess.run(
                [*before, *self.command],
                stdin=requests,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=self.environment,
                timeout=HANG_SECONDS,
                check=False,
            )
        self.messages.write_bytes(done.stdout)
        return done.returncode

    def taken(self, start: int = 0) -> list[str]:
        """Give the keys of the requests that executors took since the log had that many bytes."""
        lines = self.log_lines(start)
        return [line.removeprefix("take ") for line in lines if line.startswith("take ")]

    def log_lines(self, start: int = 0) -> list[str]:
        """Give what was noted since the log had that many bytes."""
        if not self.log.exists():
            return []
        return self.log.read_bytes()[start:].decode().splitlines()

    def log_size(self) -> int:
        """Give the bytes of the log."""
        return self.log.stat().st_size if self.log.exists() else 0

    def recorded(self) -> set[str]:
        """Give the keys in the ledger while no run is at work, leaving its files as they are."""
        ledger = self.state / "ledger.sqlite3"
        with tempfile.TemporaryDirectory() as folder:
            for path in self.state.glob("ledger.sqlite3*"):
                # The index of the log is rebuilt, as after a power cut.
                if not path.name.endswith("-shm"):
                    shutil.copy(path, folder)
            return _keys(Path(folder, ledger.name))

    def names(self) -> set[str]:
        """Give the names of all files and folders of the job."""
        return {str(path.relative_to(self.folder)) for path in self.folder.rglob("*")}

    def streams(self) -> dict[str, bytes]:
        """Give the event files by name."""
        folder = self.folder / "out.jsonl.stream"
        return {path.name: path.read_bytes() for path in folder.glob("*.sse")}

    def _input(self) -> BinaryIO:
        return (self.source if self.is_piped else Path(os.devnull)).open("rb")

    def _beside(self, suffix: str) -> Path:
        return self.folder.with_name(f"{self.folder.name}.{suffix}")


def _keys(path: Path) -> set[str]:
    if not path.exists():
        return set()
    with closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE name = 'results'")
        if tables.fetchone() is None:
            return set()
        return {key.hex() for (key,) in connection.execute("SELECT key FROM results")}
