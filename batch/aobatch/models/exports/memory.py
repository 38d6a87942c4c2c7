"""What is known of exported graphs, kept in the user's cache while their files stay as they are."""

import hashlib
import os
import time
from pathlib import Path
from typing import TypeAlias

import msgspec

from aobatch.models.checks.links import own_file
from aobatch.models.exports.layout import Hints
from aobatch.models.manifest import Manifest

VERSION = 1
"""Of what is remembered; other versions know nothing."""
_SETTLED_NANOSECONDS = 2 * 10**9
"""A file that changed so lately could change again without a new time."""

Stamp: TypeAlias = tuple[int, int, int, int] | None
"""Size, times of content and of names, and number of a file; None if there is none."""


class Description(msgspec.Struct, frozen=True):
    """Everything that is to be known of an export without opening its graph."""

    folder: str
    graph: str
    data_names: tuple[str, ...]
    """The files beside the graph that hold its weights."""
    stamps: dict[str, Stamp]
    """All files that the manifest was made from, and those that could have been there."""
    hints: Hints
    """Sizes that the graph may leave open."""
    manifest: Manifest
    version: int = VERSION


def stamp(path: Path) -> Stamp:
    """Tell one state of a file from any other, without reading it."""
    try:
        status = own_file(path).lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def recall(graph: Path) -> Description | None:
    """Give what is known of a graph; None if that is nothing, or a file has changed since."""
    try:
        found = msgspec.json.decode(_record(graph).read_bytes(), type=Description)
    except (OSError, RuntimeError, ValueError):
        return None
    is_known = found.version == VERSION and found.graph == str(graph)
    has_same_files = all(stamp(Path(name)) == known for name, known in found.stamps.items())
    return found if is_known and has_same_files else None


def remember(graph: Path, description: Description) -> None:
    """Keep a description, if there is a place for it and the files are not just being written."""
    latest = max((known[2] for known in description.stamps.values() if known), default=0)
    if time.time_ns() - latest < _SETTLED_NANOSECONDS:
        return
    try:
        record = _record(graph)
        record.parent.mkdir(parents=True, exist_ok=True)
        part = record.with_name(f"{record.name}.{os.getpid()}")
        part.write_bytes(msgspec.json.encode(description))
        part.replace(record)
    except (OSError, RuntimeError):
        return


def _record(graph: Path) -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.sha256(os.fsencode(graph)).hexdigest()[:32]
    return Path(cache) / "aobatch" / "exports" / f"{name}.json"
