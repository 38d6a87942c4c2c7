"""Checks: what a model's files must be before any native library reads them."""

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from aobatch.errors import ModelError

MAX_SHOWN, MAX_REASON = 80, 300
"""Characters of a file's own words, and of a library's about it, that a message shows."""


def refusal(path: Path, reason: str) -> ModelError:
    """Give the error that names a file which is not to be read, and why."""
    advice = "convert the model again, or get it from its author"
    return ModelError(f"{path} is refused: {printable(reason)}; {advice}")


def unusable(path: Path, reason: str) -> ModelError:
    """Give the error that says why an export cannot run here."""
    return ModelError(f"{path} cannot run here: {printable(reason)}")


def printable(text: str) -> str:
    """Give the beginning of a text, with nothing in it that moves a terminal's cursor."""
    shortened = text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}…"
    return "".join(
        character if character.isprintable() else repr(character)[1:-1] for character in shortened
    )


def shown(value: object) -> str:
    """Quote something that a file says, in a length that a message can bear."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


MAX_GRAPH_BYTES = 2 << 30
MAX_PARSED_BYTES = 256 << 20
"""Memory for a graph beside its weights; one of 80 layers takes 40 MB."""
MAX_NESTING = 64
MAX_RANK = 8
MAX_STATIC_ELEMENTS = 1 << 26
"""Elements of a tensor whose size stands in an exported graph."""
MAX_LAYERS = 1024
MAX_WIDTH = 1 << 22
"""Tokens in a vocabulary, channels of a layer, positions of a context."""
MAX_MANIFEST_BYTES = 64 << 10
MAX_TOKENIZER_BYTES = 64 << 20
MAX_ADDED_TOKENS = 65_536
MAX_SAFETENSORS_HEADER_BYTES = 100_000_000
MAX_SAFETENSORS_TENSORS = 65_536


def own_file(path: Path) -> Path:
    """Give the content of a file of a hub's cache; any other path as it is.

    `models--ORG--NAME/snapshots/REVISION/FILE` is a link into `models--ORG--NAME/blobs`. Only such
    a link to such a place is followed, one step, so that nothing leaves the cache of one model:
    whatever else is a link is refused where it is read.
    """
    try:
        target = Path(os.path.normpath(path.parent.resolve() / path.readlink()))
    except OSError:
        return path
    snapshots = next((p for p in path.parent.resolve().parents if p.name == "snapshots"), None)
    if snapshots is None or not snapshots.parent.name.startswith("models--"):
        return path
    return target if target.parent == snapshots.parent / "blobs" else path


ADAPTER = "adapter_config.json"
"""What says that a folder, or a repository, has weights to be added to those of a model."""
ADAPTER_ADVICE = (
    f"is an adapter ({ADAPTER}), which is nothing without the model that it was trained for; get "
    "both, and merge them with `aobatch models import BASE NAME --lora FOLDER`"
)
POINTER = b"version https://git-lfs"
POINTER_ADVICE = "is only a pointer; get the file itself with `git lfs pull`"
_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
_MAX_PARTS = 1000
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def part_names(name: str) -> list[str]:
    """List the names of all parts of a GGUF file that is one of several; itself if it is alone."""
    found = _PART.fullmatch(name)
    if not found or not 1 <= int(found[2]) <= int(found[3]) <= _MAX_PARTS:
        return [name]
    numbers = range(1, int(found[3]) + 1)
    return [f"{found[1]}-{number:05}-of-{found[3]}.gguf" for number in numbers]


@contextmanager
def open_regular(path: Path, *, follows_links: bool = False) -> Iterator[tuple[BinaryIO, int]]:
    """Open a regular file and give its size; ModelError if it is anything else.

    A link is followed only where it is asked for. What lies in a model folder is the model's own,
    so that a folder from elsewhere cannot name the user's other files as its parts.
    """
    link = 0 if follows_links else os.O_NOFOLLOW
    try:
        # A pipe would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | link)
    except OSError as error:
        reason = "it is a link" if error.errno == errno.ELOOP else f"{error.strerror}"
        raise refusal(path, reason) from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise refusal(path, "it is not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file, status.st_size


def read_regular(path: Path, max_bytes: int, *, follows_links: bool = False) -> bytes:
    """Read a regular file of at most so many bytes; ModelError if it is anything else."""
    with open_regular(path, follows_links=follows_links) as (file, size):
        content = file.read(min(size, max_bytes) + 1)
    if len(content) > max_bytes:
        raise refusal(path, f"it has more than {max_bytes} bytes")
    return content


def neighbour(path: Path, name: str) -> Path:
    """Give the file of a plain name beside another; ModelError for any way out of the folder."""
    if not _PLAIN_NAME.fullmatch(name):
        raise refusal(path, f"it names the file {shown(name)}, which is no plain name")
    return path.with_name(name)


def owned_size(path: Path) -> int:
    """Give the size of a regular file that has no other name; ModelError if it is anything else.

    ONNX Runtime reads through hard links, which an archive can make to files of the user's.
    """
    try:
        status = path.lstat()
    except OSError as error:
        raise refusal(path, f"{error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise refusal(path, "it is not a regular file")
    if status.st_nlink != 1:
        raise refusal(path, "it is a hard link, which could be any file; put a copy in its place")
    return status.st_size
