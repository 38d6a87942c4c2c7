"""Files that other machines keep, through pyarrow's file systems; their failures as job errors."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from aobatch.api.errors import shorten
from aobatch.errors import BusyError, InputError, InputMissingError, JobError, OutputError

CHUNK_BYTES = 8 * 2**20
_BUCKET_STORES = {"s3", "gcs"}
_URI = re.compile(r"[a-z][a-z0-9.+-]+://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Remote:
    """A file that another machine keeps."""

    uri: str

    @property
    def name(self) -> str:
        """The last part of its path."""
        return PurePosixPath(unquote(urlsplit(self.uri).path)).name

    @property
    def suffix(self) -> str:
        """The end of its name from the last dot on."""
        return PurePosixPath(self.name).suffix

    @property
    def is_folder(self) -> bool:
        """Whether its path ends as that of a folder."""
        return urlsplit(self.uri).path.endswith("/")

    @property
    def folder(self) -> str:
        """The URI of the folder that it is in, without what follows a question mark."""
        parts = urlsplit(self.uri)
        return urlunsplit((*parts[:2], parts.path.rpartition("/")[0], "", ""))

    def with_name(self, name: str) -> "Remote":
        """Name another file of the same folder."""
        parts = urlsplit(self.uri)
        folder = parts.path.rpartition("/")[0]
        return Remote(urlunsplit(parts._replace(path=f"{folder}/{quote(name)}")))

    def __str__(self) -> str:
        """Write the URI without the keys that it may hold."""
        parts = urlsplit(self.uri)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


Location: TypeAlias = Path | Remote


def parse_location(text: str) -> Location:
    """Read a path, a URI, or a URI of this machine, which is a path."""
    if text.startswith("file://"):
        return Path(unquote(urlsplit(text).path))
    return Remote(text) if _URI.match(text) else Path(text)


class GuardedFile:
    """A remote file for pyarrow to read from; an error of the network ends the reading as ours."""

    def __init__(self, remote: Remote, stream: pa.NativeFile) -> None:
        self._remote = remote
        self._stream = stream

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the stream has
        return getattr(self._stream, name)

    def read(self, size: int | None = None) -> bytes:
        """Read bytes."""
        with _guarded(self._remote, InputError):
            return bytes(self._stream.read(size))

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        with _guarded(self._remote, InputError):
            return int(self._stream.seek(offset, whence))


def open_stream(remote: Remote) -> GuardedFile:
    """Open a file for reading it from its start; BusyError if it cannot be reached now."""
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        return GuardedFile(remote, system.open_input_stream(path, compression=None))


def open_places(remote: Remote) -> GuardedFile:
    """Open a file for reading it at any place."""
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        return GuardedFile(remote, system.open_input_file(path))


def download(remote: Remote, target: BinaryIO) -> None:
    """Copy the bytes of a file."""
    with closing(open_stream(remote)) as stream:
        shutil.copyfileobj(stream, target, CHUNK_BYTES)


def size_of(remote: Remote) -> int | None:
    """Look up how many bytes a file has, None if its store does not say."""
    size: int | None = _look_up(remote).size
    return size


def modified_at(remote: Remote) -> float | None:
    """Look up when a file was last changed, in Unix seconds, None if its store does not say."""
    nanoseconds = _look_up(remote).mtime_ns
    return None if nanoseconds is None else nanoseconds / 1e9


def check_readable(remote: Remote) -> None:
    """Refuse what is not there, or is a folder."""
    kind = _look_up(remote).type
    if kind == fs.FileType.NotFound:
        message = f"input {remote} does not exist"
        raise InputMissingError(message)
    if kind == fs.FileType.Directory:
        message = f"input {remote} is a folder; end its name with / to read the files in it"
        raise InputError(message)


def stated_identity(remote: Remote) -> str | None:
    """Name what a file holds by what its store says of it, None if that does not tell."""
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError
        with system.open_input_file(path) as file:
            tag = (file.metadata() or {}).get("ETag", b"").decode()
    if not tag and info.mtime_ns is None:
        return None
    facts = f"{remote} {info.size} {info.mtime_ns} {tag}"
    return f"remote-{hashlib.sha256(facts.encode()).hexdigest()}"


def identify(remote: Remote) -> str:
    """Name what a file holds: by what its store says of it, or by a hash of all its bytes."""
    stated = stated_identity(remote)
    if stated is not None:
        return stated
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        with system.open_input_stream(path, compression=None) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()


def list_files(remote: Remote) -> list[Remote]:
    """List all files below a folder, in the order of their names."""
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        selector = fs.FileSelector(path.rstrip("/"), recursive=True)
        infos = system.get_file_info(selector)
    parts = urlsplit(remote.uri)
    prefix = path.rstrip("/")
    names = sorted(info.path.removeprefix(prefix).lstrip("/") for info in infos if info.is_file)
    folder = parts.path.rstrip("/")
    return [Remote(parts._replace(path=f"{folder}/{name}").geturl()) for name in names]


def check_writable(remote: Remote) -> None:
    """Refuse an output that could not be uploaded; BusyError if its store cannot be reached now."""
    with _guarded(remote, OutputError):
        system, path = _open_system(remote)
        if system.get_file_info(path).type == fs.FileType.Directory:
            message = f"output {remote} is a folder; name a file"
            raise OutputError(message)
        bucket = path.partition("/")[0]
        kind = system.get_file_info(bucket).type if system.type_name in _BUCKET_STORES else None
        if kind == fs.FileType.NotFound:
            message = f"bucket {bucket} of output {remote} does not exist; create it"
            raise OutputError(message)


def upload(source: Path, remote: Remote) -> None:
    """Write a file under its URI; it appears there when all of it has arrived."""
    with _guarded(remote, OutputError):
        system, path = _open_system(remote)
        with source.open("rb") as file, system.open_output_stream(path, compression=None) as stream:
            shutil.copyfileobj(file, stream, CHUNK_BYTES)
        size = system.get_file_info(path).size
    if size is not None and size != source.stat().st_size:
        message = f"{remote} holds {size} bytes of {source} alone; run again"
        raise BusyError(message)


def _look_up(remote: Remote) -> fs.FileInfo:
    with _guarded(remote, InputError):
        system, path = _open_system(remote)
        return system.get_file_info(path)


def _open_system(remote: Remote) -> tuple[fs.FileSystem, str]:
    try:
        system, path = fs.FileSystem.from_uri(remote.uri)
    except (pa.ArrowInvalid, ValueError, ImportError) as error:
        # What the library says may repeat the keys in the URI.
        message = (
            f"{remote} cannot be opened ({type(error).__name__}); known are file, s3, gs, abfs, "
            "hf and fsspec+NAME, each with what it needs installed"
        )
        raise InputError(message) from error
    return system, path


@contextmanager
def _guarded(remote: Remote, failure: type[JobError]) -> Iterator[None]:
    """Say in one sentence what went wrong, and whether trying again may help."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        if isinstance(error, FileNotFoundError) and failure is InputError:
            message = f"input {remote} does not exist"
            raise InputMissingError(message) from error
        reason = shorten(" ".join(str(error).split()), 300)
        if isinstance(error, PermissionError | FileNotFoundError) or "ACCESS_DENIED" in reason:
            message = f"{remote} is refused: {reason}"
            raise failure(message) from error
        message = f"{remote} cannot be reached: {reason}; run again later"
        raise BusyError(message) from error
