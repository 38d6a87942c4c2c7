"""Deaths at chosen points: the process kills itself ahead of the nth call of a kind, or behind."""

import os
import signal
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

KINDS = ("commit", "fsync", "replace")
"""What makes something last: the end of a transaction, the bytes of a file, its name."""


@dataclass
class Death:
    """Where a process dies: at a call of this kind behind so many others of it."""

    kind: str
    num_left: int
    is_behind: bool

    def install(self) -> None:
        """Die when this process comes there."""
        if self.kind != "commit":
            setattr(os, self.kind, self._deadly(getattr(os, self.kind)))
            return
        connect, commit = sqlite3.connect, self._deadly(sqlite3.Connection.execute)

        class Connection(sqlite3.Connection):
            def execute(self, statement: str, *values: object) -> sqlite3.Cursor:
                if statement == "COMMIT":
                    return commit(self, statement)  # type: ignore[no-any-return]
                return super().execute(statement, *values)

        sqlite3.connect = lambda *place, **more: connect(*place, **more, factory=Connection)

    def _deadly(self, call: Callable[..., object]) -> Callable[..., object]:
        def deadly(*values: object, **more: object) -> object:
            is_now = self.num_left == 0
            self.num_left -= 1
            if is_now and not self.is_behind:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*values, **more)
            if is_now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return deadly
