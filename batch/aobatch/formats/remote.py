"""Files that other machines keep, through pyarrow's file systems; their failures as job errors."""

import hashlib
import re
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Thread
from typing import Any, BinaryIO, TypeAlias, TypeVar
from urllib.parse import quote, unquote, urlsplit, urlunsplit

import pyarrow as pa
from pyarrow import fs

from aobatch.api.errors import shorten
from aobatch.errors import (
    AccessError,
    AobatchError,
    BusyError,
    InputError,
    InputMissingError,
    JobError,
    OutputError,
)

CHUNK_BYTES = 8 * 2**20
ANSWER_SECONDS = 12.0
"""How long a store may take to answer a question."""
RETRY_SECONDS = 5
"""For how long Google's store is asked again."""
_BUCKET_STORES = {"s3", "gcs"}
_NETWORK = re.compile(
    r"[Cc]ould not (resolve|connect)|CURL error|NETWORK_CONNECTION|timed? ?out|[Hh]ost not found"
)
_REFUSED = re.compile(
    r"ACCESS_DENIED|UNAUTHENTICATED|PERMISSION_DENIED|Authenticat|[Cc]redential|\] 40[13]\b"
)
_MISSING = re.compile(r"NOT_FOUND|NO_SUCH|NoSuch|not found|status 404|404 ")
T = TypeVar("T")
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

        def read() -> bytes:
            return bytes(self._stream.read(size))

        return _asked(self._remote, InputError, read, is_brief=False)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place."""
        return _asked(self._remote, InputError, lambda: int(self._stream.seek(offset, whence)))


def open_stream(remote: Remote) -> GuardedFile:
    """Open a file for reading it from its start; BusyError if it cannot be reached now."""

    def open_it() -> GuardedFile:
        system, path = _open_system(remote)
        return GuardedFile(remote, system.open_input_stream(path, compression=None))

    return _asked(remote, InputError, open_it)


def open_places(remote: Remote) -> GuardedFile:
    """Open a file for reading it at any place."""

    def open_it() -> GuardedFile:
        system, path = _open_system(remote)
        return GuardedFile(remote, system.open_input_file(path))

    return _asked(remote, InputError, open_it)


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

    def look() -> tuple[fs.FileInfo, str]:
        system, path = _open_system(remote)
        info = system.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            raise FileNotFoundError
        with system.open_input_file(path) as file:
            return info, (file.metadata() or {}).get("ETag", b"").decode()

    info, tag = _asked(remote, InputError, look)
    if not tag and info.mtime_ns is None:
        return None
    facts = f"{remote} {info.size} {info.mtime_ns} {tag}"
    return f"remote-{hashlib.sha256(facts.encode()).hexdigest()}"


def identify(remote: Remote) -> str:
    """Name what a file holds: by what its store says of it, or by a hash of all its bytes."""
    stated = stated_identity(remote)
    if stated is not None:
        return stated
    digest = hashlib.sha256()
    with closing(open_stream(remote)) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def list_files(remote: Remote) -> list[Remote]:
    """List all files below a folder, in the order of their names."""
    _look_up(remote)  # which soon says whether the store answers at all
    parts = urlsplit(remote.uri)

    def find() -> list[str]:
        system, path = _open_system(remote)
        prefix = path.rstrip("/")
        infos = system.get_file_info(fs.FileSelector(prefix, recursive=True))
        return sorted(i.path.removeprefix(prefix).lstrip("/") for i in infos if i.is_file)

    names = _asked(remote, InputError, find, is_brief=False)
    folder = parts.path.rstrip("/")
    return [Remote(parts._replace(path=f"{folder}/{name}").geturl()) for name in names]


def check_writable(remote: Remote) -> None:
    """Refuse an output that could not be uploaded; BusyError if its store cannot be reached now."""

    def look() -> tuple[fs.FileType, fs.FileType | None, str]:
        system, path = _open_system(remote)
        bucket = path.partition("/")[0]
        kind = system.get_file_info(path).type
        has_buckets = system.type_name in _BUCKET_STORES
        return kind, system.get_file_info(bucket).type if has_buckets else None, bucket

    kind, bucket_kind, bucket = _asked(remote, OutputError, look)
    if kind == fs.FileType.Directory:
        message = f"output {remote} is a folder; name a file"
        raise OutputError(message)
    if bucket_kind == fs.FileType.NotFound:
        message = f"bucket {bucket} of output {remote} does not exist; create it"
        raise OutputError(message)


def upload(source: Path, remote: Remote) -> None:
    """Write a file under its URI; it appears there when all of it has arrived.

    A store shows an object when its stream is closed. A thread that a signal leaves behind closes
    it with all bytes, or dies with the process before: never with a part of them.
    """

    def put() -> int | None:
        system, path = _open_system(remote)
        with source.open("rb") as file, system.open_output_stream(path, compression=None) as stream:
            shutil.copyfileobj(file, stream, CHUNK_BYTES)
        size: int | None = system.get_file_info(path).size
        return size

    size = _asked(remote, OutputError, put, is_brief=False)
    if size is not None and size != source.stat().st_size:
        message = f"{remote} holds {size} bytes of {source} alone; run again"
        raise BusyError(message)


def _look_up(remote: Remote) -> fs.FileInfo:
    def look() -> fs.FileInfo:
        system, path = _open_system(remote)
        return system.get_file_info(path)

    return _asked(remote, InputError, look)


def _open_system(remote: Remote) -> tuple[fs.FileSystem, str]:
    parts = urlsplit(remote.uri)
    uri = remote.uri
    if parts.scheme in {"gs", "gcs"} and "retry_limit_seconds" not in parts.query:
        # The library's own limit is a quarter of an hour.
        query = f"{parts.query}&" if parts.query else ""
        uri = parts._replace(query=f"{query}retry_limit_seconds={RETRY_SECONDS}").geturl()
    if parts.scheme == "az":
        uri = parts._replace(scheme="abfs").geturl()
    try:
        system, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, ValueError, ImportError) as error:
        # What the library says may repeat the keys in the URI.
        if "account name" in str(error):
            message = (
                f"{remote} names no account of its store; write it as "
                "abfs://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH"
            )
            raise AccessError(message) from error
        message = (
            f"{remote} cannot be opened ({type(error).__name__}); known are file, s3, gs, abfs, "
            "hf and fsspec+NAME, each with what it needs installed"
        )
        raise InputError(message) from error
    return system, path


def _asked(
    remote: Remote, failure: type[JobError], question: Callable[[], T], *, is_brief: bool = True
) -> T:
    """Ask a store in a thread of its own; say in one sentence what went wrong, and what may help.

    The libraries hear no signal while they wait, and some of them wait for very long. What takes
    long where all is well, as moving and listing files does, is not brief.
    """
    answers: list[T] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            answers.append(question())
        except BaseException as error:  # noqa: BLE001 - raised again below
            failures.append(error)

    thread = Thread(target=ask, name=f"question to {remote}", daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS if is_brief else None)
    if thread.is_alive():
        message = f"{remote} gives no answer within {ANSWER_SECONDS:g} seconds; run again later"
        raise BusyError(message)
    for error in failures:
        if isinstance(error, AobatchError | MemoryError) or not isinstance(error, Exception):
            raise error
        raise _told(remote, failure, error) from error
    return answers[0]


def _told(remote: Remote, failure: type[JobError], error: Exception) -> JobError:
    """Make an error of a store's library one of ours, by its kind or else by what it says."""
    reason = shorten(" ".join(str(error).split()), 300)
    if password := urlsplit(remote.uri).password:
        reason = reason.replace(password, "...")
    status = getattr(getattr(error, "response", None), "status_code", None)
    is_network = _NETWORK.search(reason) is not None
    if isinstance(error, PermissionError) or status in {401, 403} or _REFUSED.search(reason):
        message = f"{remote} is refused: {reason}; give what its store asks for"
        return BusyError(message) if is_network else AccessError(message)
    if isinstance(error, FileNotFoundError) or status == 404 or _MISSING.search(reason):
        if failure is InputError:
            return InputMissingError(f"input {remote} does not exist")
        return failure(f"{remote} cannot be created: {reason}")
    if isinstance(error, ValueError | TypeError | NotImplementedError):
        return failure(f"{remote} cannot be used: {reason}")
    return BusyError(f"{remote} cannot be reached: {reason}; run again later")
