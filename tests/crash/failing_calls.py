"""System calls that fail: the nth of a kind, once or from then on."""

import io
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

OS_CALLS = ("fsync", "ftruncate", "mkdir", "open", "pwrite", "replace", "unlink", "utime", "write")
KINDS = (*OS_CALLS, "sqlite", "stream open", "stream write")
"""Calls of os, statements of SQLite, and what happens to files opened for writing."""


@dataclass
class FailingCall:
    """Counts the calls of a kind and lets one fail, or that one and all after it."""

    kind: str
    index: int
    error: int
    is_lasting: bool
    num_calls: int = field(default=0, init=False)

    @property
    def has_failed(self) -> bool:
        """Whether the call came."""
        return self.num_calls > self.index

    def pass_or_fail(self, kind: str) -> None:
        """Count a call; OSError if it is the one that fails."""
        if kind != self.kind:
            return
        self.num_calls += 1
        if self.num_calls == self.index + 1 or (self.is_lasting and self.has_failed):
            raise OSError(self.error, os.strerror(self.error))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Let the calls of the block fail."""
        connect, opened = sqlite3.connect, io.open

        def open_file(file: object, mode: str = "r", *more: object, **named: object) -> object:
            if mode != "wb":
                return opened(file, mode, *more, **named)
            self.pass_or_fail("stream open")
            raw = FailingFile(file, self)
            is_unbuffered = 0 in more[:1] or named.get("buffering") == 0
            return raw if is_unbuffered else io.BufferedWriter(raw)

        with pytest.MonkeyPatch.context() as patch:
            for name in OS_CALLS:
                patch.setattr(os, name, self._guarded(name))
            patch.setattr(io, "open", open_file)
            patch.setattr(
                sqlite3,
                "connect",
                lambda *names, **more: connect(*names, **more, factory=self._connection()),
            )
            yield

    def _guarded(self, name: str) -> object:
        call = getattr(os, name)

        def guarded(*arguments: object, **more: object) -> object:
            self.pass_or_fail(name)
            return call(*arguments, **more)

        return guarded

    def _connection(self) -> type[sqlite3.Connection]:
        call = self

        class FailingConnection(sqlite3.Connection):
            def execute(self, *arguments: object) -> sqlite3.Cursor:
                call.pass_statement()
                return super().execute(*arguments)

            def executemany(self, *arguments: object) -> sqlite3.Cursor:
                call.pass_statement()
                return super().executemany(*arguments)

            def executescript(self, *arguments: object) -> sqlite3.Cursor:
                call.pass_statement()
                return super().executescript(*arguments)

        return FailingConnection

    def pass_statement(self) -> None:
        """Count a statement; SQLite's own error if it is the one that fails."""
        try:
            self.pass_or_fail("sqlite")
        except OSError as error:
            message = "database or disk is full"
            raise sqlite3.OperationalError(message) from error


class FailingFile(io.FileIO):
    """A file opened for writing."""

    def __init__(self, file: object, call: FailingCall) -> None:
        super().__init__(file, "wb")
        self._call = call

    def write(self, data: object) -> int:
        """Write, or fail."""
        self._call.pass_or_fail("stream write")
        return super().write(data)
