"""Server-sent-event files: one for each line that asks for a stream, written while tokens come."""

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from aobatch.api.errors import error_object
from aobatch.api.request import Request
from aobatch.api.response import Choice, Usage, encode_chunk, one_line
from aobatch.engine.sequence import Result
from aobatch.executors import ModelIdentity
from aobatch.files import storage_error
from aobatch.job.config import STREAM
from aobatch.job.context import Job, origin_of

if TYPE_CHECKING:
    from aobatch.engine.streaming import Delta


class RoundRobin:
    """Pieces of one request's choices in an order that follows from the pieces alone.

    Choices take turns, a piece each, and one that has ended is passed over: when each piece was
    computed depends on other requests, and is not to be seen.
    """

    def __init__(self, num_choices: int) -> None:
        self._waiting = [deque[Choice]() for _ in range(num_choices)]
        self._turns = deque(self._waiting)

    def add(self, piece: Choice) -> Iterator[Choice]:
        """Take in a piece, and yield those whose turn has come."""
        self._waiting[piece.index].append(piece)
        while self._turns and self._turns[0]:
            waiting = self._turns.popleft()
            piece = waiting.popleft()
            if piece.finish_reason is None:
                self._turns.append(waiting)
            yield piece


def stream_folder(output: Path) -> Path:
    """Name the folder of a job's event files."""
    return output.with_name(f"{output.name}.stream")


class EventFiles:
    """Appends the chunks of streamed requests to their files; StorageError if that fails.

    A file that an interrupted run left is begun anew, as its request is.
    """

    def __init__(self, job: Job, model: ModelIdentity) -> None:
        self._job = job
        self._model = model
        self._files: dict[int, BinaryIO] = {}
        self._pieces: dict[int, RoundRobin] = {}
        self._begun: dict[int, set[int]] = {}
        """The choices of each line that a piece was written of."""

    def add(self, delta: "Delta") -> None:
        """Take in a piece of a choice, and write the chunks whose turn has come."""
        request = delta.request
        if request.line not in self._pieces:
            self._pieces[request.line] = RoundRobin(len(request.body.prompts) * request.body.n)
        for choice in self._pieces[request.line].add(delta.choice):
            self._write(request, self._chunk(request, [choice], None))

    def end(self, result: Result) -> None:
        """Write what follows the last chunk, and close the file."""
        request = result.request
        if not request.body.stream:
            return
        self._pieces.pop(request.line, None)
        if result.error is not None:
            error = {"error": error_object(result.error)}
            self._write(request, msgspec.json.encode(error))
        elif request.body.include_usage:
            self._write(request, self._chunk(request, [], result.usage))
        self._write(request, b"[DONE]")
        self._begun.pop(request.line, None)
        if file := self._files.pop(request.line, None):
            file.close()

    def close(self) -> None:
        """Close the files of requests that did not end."""
        while self._files:
            self._files.popitem()[1].close()

    def _chunk(self, request: Request, choices: Sequence[Choice], usage: Usage | None) -> bytes:
        origin = origin_of(self._job, self._model, request)
        begun = self._begun.setdefault(request.line, set())
        is_first = any(choice.index not in begun for choice in choices)
        begun.update(choice.index for choice in choices)
        return encode_chunk(request, choices, usage, origin, is_first=is_first)

    def _write(self, request: Request, data: bytes) -> None:
        output = self._job.config.output
        if output == STREAM:
            return  # standard output has no place beside it
        # Nothing from the request itself enters the name.
        path = stream_folder(output) / f"{request.line:06d}.sse"
        try:
            if request.line not in self._files:
                path.parent.mkdir(exist_ok=True)
                self._files[request.line] = path.open("wb", buffering=0)
            self._files[request.line].write(b"data: " + one_line(data) + b"\n\n")
        except OSError as error:
            raise storage_error(path, error) from error
