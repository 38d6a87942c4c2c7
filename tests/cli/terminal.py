"""A terminal for tests: a command at work on it, and the screen that a person would see."""

import fcntl
import os
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from select import select

_CONTROL = re.compile(r"\x1b\[([?\d;]*)([A-Za-z])|[\r\n\b]|[^\x00-\x1f\x7f]")
_ADOPT = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Makes the terminal that of the process, so that Ctrl-C reaches it."""


@dataclass
class Screen:
    """The characters of a terminal, of which each has a style."""

    columns: int
    rows: list[list[tuple[str, str]]] = field(default_factory=lambda: [[]])
    """A character and its style, numbers as in `ESC[1;31m`."""
    row: int = 0
    column: int = 0
    style: str = ""
    shows_cursor: bool = True
    unknown: str = ""
    """What came that no terminal of this kind should get."""

    def feed(self, text: str) -> None:
        """Obey characters and sequences."""
        place = 0
        for match in _CONTROL.finditer(text):
            self.unknown += text[place : match.start()]
            place = match.end()
            if match[2] is not None:
                self._obey(match[1], match[2])
            elif match[0] == "\r":
                self.column = 0
            elif match[0] == "\b":
                self.column = max(0, self.column - 1)
            elif match[0] == "\n":
                self._go_down()
            else:
                self._put(match[0])
        self.unknown += text[place:]

    def lines(self) -> list[str]:
        """Give what can be read, without the spaces behind it."""
        return ["".join(char for char, _ in row).rstrip() for row in self.rows]

    def _put(self, char: str) -> None:
        if self.column == self.columns:
            self.column = 0
            self._go_down()
        row = self.rows[self.row]
        row.extend([(" ", "")] * (self.column + 1 - len(row)))
        row[self.column] = (char, self.style)
        self.column += 1

    def _go_down(self) -> None:
        self.row += 1
        if self.row == len(self.rows):
            self.rows.append([])

    def _obey(self, numbers: str, letter: str) -> None:
        match letter, numbers:
            case "m", _:
                is_off = numbers in {"", "0"}
                self.style = "" if is_off else f"{self.style};{numbers}".lstrip(";")
            case "K", _:
                del self.rows[self.row][self.column :]
            case "A", _:
                self.row = max(0, self.row - int(numbers or 1))
            case "h" | "l", "?25":
                self.shows_cursor = letter == "h"
            case _:
                self.unknown += f"\x1b[{numbers}{letter}"


class Terminal:
    """A command whose three streams are a terminal."""

    def __init__(
        self, command: list[str], folder: Path, columns: int = 80, **variables: str
    ) -> None:
        self.screen = Screen(columns)
        self.frames: list[list[str]] = []
        """What was to be seen after each piece that the command wrote."""
        self.raw = b""
        self._ours, self._theirs = os.openpty()
        size = struct.pack("4H", 24, columns, 0, 0)
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, size)
        self.modes = termios.tcgetattr(self._theirs)
        environment = {**os.environ, "TERM": "xterm-256color", **variables}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            if name not in variables:
                environment.pop(name, None)
        self.process = subprocess.Popen(
            [sys.executable, "-c", _ADOPT, *command],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )

    def watch(self, is_enough: Callable[["Terminal"], bool], seconds: float = 300) -> None:
        """Watch the screen until it shows what is waited for."""
        deadline = time.monotonic() + seconds
        while not is_enough(self):
            has_more = select([self._ours], [], [], 0.05)[0]
            if has_more:
                self._read()
            is_over = time.monotonic() > deadline or self.process.poll() is not None
            assert has_more or not is_over or is_enough(self), "\n".join(self.screen.lines())

    def end(self) -> int:
        """Watch the command to its end; give how it ended."""
        self.watch(lambda _: self.process.poll() is not None)
        while select([self._ours], [], [], 0)[0]:
            self._read()
        return self.process.returncode

    def type(self, keys: str) -> None:
        """Press keys, of which Ctrl-C is the character 3."""
        os.write(self._ours, keys.encode())

    def modes_now(self) -> list[object]:
        """Give how the terminal treats what is typed."""
        return termios.tcgetattr(self._theirs)

    def close(self) -> None:
        """Take the terminal away."""
        self.process.kill()
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)

    def _read(self) -> None:
        piece = os.read(self._ours, 2**16)
        self.raw += piece
        self.screen.feed(piece.decode())
        self.frames.append(self.screen.lines())
