"""The lines of the output that are errors, as a file of their own."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from aobatch.files import replacing
from aobatch.formats import write_records

MAX_BYTES_IN_MEMORY = 2**20


class FailedLines:
    """Keeps failed lines until all are known; they pass through a file that has no name."""

    def __init__(self, path: Path | None) -> None:
        """Keep nothing if path is None."""
        self._path = path
        self._lines: IO[bytes] | None = None

    def __enter__(self) -> "FailedLines":
        return self

    def __exit__(self, *_: object) -> None:
        if self._lines is not None:
            self._lines.close()

    def add(self, record: bytes) -> bytes:
        """Keep a line, and give it back."""
        if self._path is not None:
            if self._lines is None:
                self._lines = tempfile.SpooledTemporaryFile(  # noqa: SIM115 - see __exit__
                    MAX_BYTES_IN_MEMORY, dir=str(self._path.parent)
                )
            self._lines.write(record + b"\n")
        return record

    def publish(self) -> None:
        """Write the file, also if no line failed."""
        if self._path is None:
            return
        with replacing(self._path) as stream:
            write_records(self._records(), stream, self._path)

    def _records(self) -> Iterator[bytes]:
        if self._lines is not None:
            self._lines.seek(0)
            yield from (line.removesuffix(b"\n") for line in self._lines)
