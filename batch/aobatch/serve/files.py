"""Files of clients in the data folder: uploads as they come, outputs of batches, lists of them."""

import os
import shutil
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol, TypeAlias, TypeVar

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from aobatch.api import errors
from aobatch.files import storage_errors, sync_folder, write_whole
from aobatch.serve.guard import HttpError, new_id

MAX_NAME = 255

Purpose: TypeAlias = Literal["batch", "batch_output"]


class Stored(msgspec.Struct, frozen=True, kw_only=True):
    """A file, in the fields of OpenAI's file object."""

    id: str
    object: str = "file"
    bytes: int
    created_at: int
    filename: str
    """As whoever uploaded it has called it; it is shown and enters no path."""
    purpose: Purpose
    status: str = "processed"
    status_details: None = None


class Files:
    """The files there are, each with a note beside it; a path is made of an own id alone."""

    def __init__(self, folder: Path) -> None:
        """Read the notes; OutputError or StorageError if the folder cannot be used."""
        self._folder = folder
        with storage_errors(folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for remains in folder.glob("*.part"):
                remains.unlink()
        notes = (msgspec.json.decode(p.read_bytes(), type=Stored) for p in folder.glob("*.json"))
        self._files = {note.id: note for note in sorted(notes, key=lambda note: note.created_at)}

    def all(self) -> list[Stored]:
        """List them, the oldest first."""
        return list(self._files.values())

    def find(self, name: str) -> Stored:
        """Find a file by its id; HttpError, 404, if there is none."""
        if name not in self._files:
            message = f"There is no file {name[:64]!r}."
            raise HttpError(404, "file_not_found", message, param="file_id")
        return self._files[name]

    def path(self, file: Stored) -> Path:
        """Say where its content is."""
        return self._folder / f"{file.id}.jsonl"

    def adopt(self, path: Path, name: str, identity: str, purpose: Purpose) -> Stored:
        """Take over a file of this machine, under an id that was drawn for it."""
        file = Stored(
            id=identity,
            bytes=path.stat().st_size,
            created_at=int(time.time()),
            filename=name,
            purpose=purpose,
        )
        # The note comes last: without it there is no file.
        with storage_errors(self._folder):
            path.replace(self.path(file))
            sync_folder(self._folder)
        write_whole(self._note(file), msgspec.json.encode(file))
        self._files[file.id] = file
        return file

    async def upload(self, headers: Headers, chunks: AsyncGenerator[bytes, None]) -> Stored:
        """Keep the file of a form while it comes; HttpError or RequestError says what is wrong."""
        parser = MultiPartParser(headers, chunks, max_files=1, max_fields=8, max_part_size=2**12)
        try:
            form = await parser.parse()
        except MultiPartException as error:
            raise HttpError(400, "invalid_value", error.message) from error
        try:
            return await run_in_threadpool(self._take, form)
        finally:
            await form.close()

    def _take(self, form: FormData) -> Stored:
        for name in form:
            if name not in {"file", "purpose"}:
                raise errors.unknown_parameter(name, ("file", "purpose"))
        uploaded = form.get("file")
        if not isinstance(uploaded, UploadFile):
            name = "file"
            raise errors.missing_parameter(name)
        if form.get("purpose") != "batch":
            reason = "it has to be 'batch'."
            raise errors.invalid_value(reason, "purpose")
        identity = new_id("file-")
        part = self._folder / f"{identity}.part"
        try:
            with storage_errors(part), part.open("wb") as stream:
                shutil.copyfileobj(uploaded.file, stream, 2**20)
                os.fsync(stream.fileno())
            return self.adopt(part, (uploaded.filename or "")[:MAX_NAME], identity, "batch")
        finally:
            part.unlink(missing_ok=True)

    def delete(self, file: Stored) -> None:
        """Forget a file and discard what it holds."""
        self._files.pop(file.id, None)
        with storage_errors(self._folder):
            self._note(file).unlink(missing_ok=True)
            self.path(file).unlink(missing_ok=True)

    def _note(self, file: Stored) -> Path:
        return self._folder / f"{file.id}.json"


class HasId(Protocol):
    """What lists hold."""

    @property
    def id(self) -> str:
        """The id, by which a list goes on."""


Item = TypeVar("Item", bound=HasId)


def page(
    items: Sequence[Item], query: Mapping[str, str], most: int, usual: int
) -> dict[str, object]:
    """Give a part of a list, the newest first, as a query asks for it; HttpError if it is wrong."""
    ordered = list(items) if query.get("order") == "asc" else list(reversed(items))
    limit, after = query.get("limit", str(usual)), query.get("after")
    if not limit.isdecimal() or not 1 <= int(limit) <= most:
        reason = f"it has to be a number from 1 to {most}."
        raise errors.invalid_value(reason, "limit")
    if after is not None:
        places = [place for place, item in enumerate(ordered) if item.id == after]
        if not places:
            reason = f"there is nothing of the id '{errors.shorten(after)}'."
            raise errors.invalid_value(reason, "after")
        ordered = ordered[places[0] + 1 :]
    shown = ordered[: int(limit)]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0].id if shown else None,
        "last_id": shown[-1].id if shown else None,
        "has_more": len(ordered) > len(shown),
    }
