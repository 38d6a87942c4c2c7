"""Whatever a user has of a decoder as a checkpoint: the importer is chosen by what is there.

A model that is a graph already (an exported ONNX folder) has no weights to convert; another runner
runs it as it is.
"""

from pathlib import Path

from aobatch.errors import ModelError
from aobatch.models.exports.choice import is_export
from aobatch.models.importers.gguf import read_gguf
from aobatch.models.importers.safetensors import read_safetensors
from aobatch.models.importers.sources import CONFIG, find_source
from aobatch.models.importers.unusable import why_unusable
from aobatch.models.spec import Checkpoint


def read_checkpoint(path: Path) -> Checkpoint:
    """Open a GGUF file or a folder of safetensors; ModelError if it is neither."""
    if path.is_dir():
        if (path / CONFIG).exists() and any(path.glob("*.safetensors")):
            return read_safetensors(path)
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1:
            return read_gguf(files[0])
        _refuse_export(path)
    else:
        _refuse_export(path)
        if find_source(str(path.absolute())) is not None:
            return read_gguf(path)
    message = why_unusable(str(path.absolute())) or (
        f"{path} does not exist; give the path of a GGUF file or of a safetensors folder"
    )
    raise ModelError(message)


def _refuse_export(path: Path) -> None:
    """Raise ModelError if there is a graph already, which needs no conversion."""
    if is_export(path):
        message = f"{path} is an exported graph; run it as it is with --model {path}"
        raise ModelError(message)
