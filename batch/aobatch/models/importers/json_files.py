"""The small JSON files of a model folder as fields."""

from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.fields import Fields

_MAX_BYTES = 32 * 2**20


def read_fields(path: Path) -> Fields:
    """Read a file that holds one JSON object; ModelError if it is missing or anything else."""
    try:
        if not path.is_file() or path.stat().st_size > _MAX_BYTES:
            message = f"{path} is missing, or no file of at most {_MAX_BYTES} bytes"
            raise ModelError(message)
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, object])
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror}"
        raise ModelError(message) from error
    except (msgspec.DecodeError, RecursionError) as error:
        message = f"{path} is no JSON object ({error})"
        raise ModelError(message) from error
    return Fields(content, str(path))


def read_optional_fields(path: Path) -> Fields:
    """Read such a file; one that is missing holds nothing."""
    return read_fields(path) if path.exists() else Fields({}, str(path))
