"""Checksums of files."""

import hashlib
from pathlib import Path


def file_digest(path: Path) -> str:
    """Give the sha256 of a file as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
