"""A validation as JSON: bad lines wait in a file, since there may be as many as lines."""

from collections.abc import Iterator
from tempfile import SpooledTemporaryFile
from types import TracebackType
from typing import Self

import msgspec

from aobatch.job.validation import BatchError, Validation

IN_MEMORY = 2**24


class ErrorSpool:
    """Bad lines on their way into the JSON."""

    def __init__(self) -> None:
        self._file: SpooledTemporaryFile[bytes] = SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115 - closed on leaving
        self._is_empty = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def add(self, error: BatchError) -> None:
        """Keep a bad line."""
        self._file.write((b"" if self._is_empty else b",\n") + msgspec.json.encode(error))
        self._is_empty = False

    def lines(self, found: Validation) -> Iterator[str]:
        """Yield all as one object, a bad line each, with the errors as a batch object has them."""
        head = msgspec.json.encode(found).decode()[:-1]
        yield f'{head},"errors":{{"object":"list","data":['
        self._file.seek(0)
        for line in self._file:
            yield line.decode().removesuffix("\n")
        yield "]}}"
