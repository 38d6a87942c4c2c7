"""Checksums of files."""

import hashlib
from collections.abc import Sequence
from pathlib import Path


def file_digest(path: Path) -> str:
    """Give the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(paths: Sequence[Path]) -> str:
    """Give the sha256 of one file, or of those of several in their order."""
    if len(paths) == 1:
        return file_digest(paths[0])
    return hashlib.sha256("".join(map(file_digest, paths)).encode()).hexdigest()
