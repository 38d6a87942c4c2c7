"""Whatever a user has of a decoder as a checkpoint: the importer is chosen by what is there.

A model that is a graph already (an exported ONNX folder) has no weights to convert; another runner
runs it as it is.
"""

from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.exports.choice import is_export
from aobatch.models.importers.gguf import read_gguf
from aobatch.models.importers.safetensors import read_safetensors
from aobatch.models.spec import Checkpoint

_CONFIG = "config.json"


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder of safetensors; ModelError if it is neither."""
    if path.is_dir():
        if (path / _CONFIG).exists() and any(path.glob("*.safetensors")):
            return read_safetensors(path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return read_gguf(files[0])
        _refuse_export(path)
        message = (
            f"{path} has neither {_CONFIG} with safetensors files nor one GGUF file; give a folder "
            "as its author published it, or the path of a GGUF file"
        )
        raise ModelError(message)
    if not path.is_file():
        message = f"{path} does not exist; give the path of a GGUF file or of a safetensors folder"
        raise ModelError(message)
    _refuse_export(path)
    return read_gguf(path)


def _refuse_export(path: Path) -> None:
    """Raise ModelError if there is a graph already, which needs no conversion."""
    if is_export(path):
        message = f"{path} is an exported graph; run it as it is with --model {path}"
        raise ModelError(message)
