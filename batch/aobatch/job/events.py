"""Server-sent-event files: one for each line that asks for a stream, written while tokens come."""

import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from aobatch.api.errors import error_object
from aobatch.api.request import Request
from aobatch.api.response import END_OF_EVENTS, Choice, Usage, encode_chunk, render_event
from aobatch.engine.sequence import Result
from aobatch.executors import ModelIdentity
from aobatch.files import storage_errors
from aobatch.job.config import STREAM
from aobatch.job.context import Job, origin_of
from aobatch.job.state import StateFolder, state_path

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


def event_name(job: Job, number: int) -> str:
    """Name the event file of a line; of several inputs, with the number of its own ahead."""
    # Nothing from the request itself enters the name.
    index, line = job.source.place(number)
    return f"{index + 1}-{line:06d}.sse" if len(job.source.inputs) > 1 else f"{line:06d}.sse"


def events_digest(output: Path) -> str:
    """Say by one hash which event files a job has, and how long they are."""
    files = sorted((p.name, p.stat().st_size) for p in stream_folder(output).glob("*.sse"))
    return sha256(repr(files).encode()).hexdigest()


def _kept(job: Job) -> Path:
    """Name the folder in which events are kept under the keys of their requests."""
    return StateFolder(state_path(job.config)).events


def publish_events(job: Job) -> None:
    """Give every line that was streamed its events, and nothing else a file of events.

    They are kept under the key of their request, as results are, wherever its line is by now.
    """
    kept = {path.stem: path for path in _kept(job).glob("*.sse")}
    folder = stream_folder(job.config.output)
    names = set()
    with storage_errors(folder):
        for number, key in job.ledger.keys() if kept else ():
            if key in kept:
                names.add(name := event_name(job, number))
                folder.mkdir(exist_ok=True)
                _link(kept.pop(key), folder / name)
        # A part is tried ahead of the whole, whose results are kept too.
        for path in () if job.config.selection.is_partial else kept.values():
            path.unlink()
        for path in folder.glob("*.sse"):
            if path.name not in names:
                path.unlink()
        with suppress(OSError):  # it is missing, or holds what is not ours
            folder.rmdir()


def _link(source: Path, target: Path) -> None:
    """Let a file have a second name, or a copy where files have but one."""
    if target.exists() and target.samefile(source):
        return
    temporary = target.with_name(f".{target.name}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, temporary)
    temporary.replace(target)


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
        self._write(request, END_OF_EVENTS)
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
        folder, path = stream_folder(output), _kept(self._job) / f"{request.key}.sse"
        with storage_errors(folder):
            if request.line not in self._files:
                path.parent.mkdir(exist_ok=True)
                folder.mkdir(exist_ok=True)
                self._files[request.line] = path.open("wb", buffering=0)
                _link(path, folder / event_name(self._job, request.line))
            self._files[request.line].write(render_event(data))
