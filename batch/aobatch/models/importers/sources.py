"""Files and folders that are no models yet but could be converted: told by a look at them."""

import os
from pathlib import Path

CONFIG = "config.json"
_MAGIC = b"GGUF"


def find_source(name: str) -> Path | None:
    """Give the GGUF file, or folder of safetensors or of one GGUF file, that a path leads to.

    A name without a separator is a path only if it ends in `.gguf`, so that what lies in the
    working folder never stands in for a model of that name.
    """
    path = Path(name)
    if os.sep not in name and path.suffix.lower() != ".gguf":
        return None
    try:
        return path if _is_source(path) else None
    except (OSError, ValueError):
        return None


def _is_source(path: Path) -> bool:
    if path.is_dir():
        has_weights = (path / CONFIG).is_file() and any(path.glob("*.safetensors"))
        return has_weights or len(list(path.glob("*.gguf"))) == 1
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC
