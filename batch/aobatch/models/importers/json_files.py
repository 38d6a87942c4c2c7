"""The small JSON files of a model folder as fields."""

from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.checks import printable
from aobatch.models.checks.files import read_regular
from aobatch.models.fields import Fields

_MAX_BYTES = 16 * 2**20


def read_fields(path: Path) -> Fields:
    """Read a file that holds one JSON object; ModelError if it is missing or anything else."""
    content = read_regular(path, _MAX_BYTES, follows_links=True)
    try:
        return Fields(msgspec.json.decode(content, type=dict[str, object]), str(path))
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"{path} is no JSON object ({printable(str(error))})"
        raise ModelError(message) from error


def read_optional_fields(path: Path) -> Fields:
    """Read such a file; one that is missing holds nothing."""
    return read_fields(path) if path.exists() else Fields({}, str(path))
