"""Which files of a repository are a model; nothing that could run code is among them."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from aobatch.errors import ModelError, UsageError

DESCRIPTIONS = (
    *("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"),
    *("special_tokens_map.json", "README.md"),
)
_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"
_GGUF, _SAFETENSORS, _ONNX = ".gguf", ".safetensors", ".onnx"
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_GRAPHS = ("model.onnx", "onnx/model.onnx", "onnx/decoder_model_merged.onnx")
"""Of the graphs of one repository the first of these is taken."""
_GENAI_CONFIG = "genai_config.json"
_MAX_LISTED = 12


def choose(repository: str, names: Sequence[str], file: str | None) -> list[str]:
    """Give the files to fetch, the weights last; `file` names what holds them, if it is known.

    ModelError if there are no weights that can be used, UsageError if it is not clear which.
    """
    weights = _weights(repository, names, file)
    described = [name for name in DESCRIPTIONS if name in names]
    if weights[0].endswith(_ONNX) and _GENAI_CONFIG in names:
        described.append(_GENAI_CONFIG)
    return [*described, *weights]


def _weights(repository: str, names: Sequence[str], file: str | None) -> list[str]:
    if file is not None:
        return _named(repository, names, file)
    if _SINGLE in names:
        return [_SINGLE]
    if _INDEX in names:
        parts = [n for n in names if n.endswith(_SAFETENSORS) and "/" not in n]
        return [_INDEX, *sorted(parts)]
    ggufs = [name for name in names if name.endswith(_GGUF)]
    if len(ggufs) == 1:
        return _named(repository, names, ggufs[0])
    graphs = [name for name in names if name.endswith(_ONNX)]
    if ggufs or graphs:
        known = next((name for name in _GRAPHS if name in graphs), None)
        if known is None or ggufs:
            message = (
                f"{repository} has several files to choose from; name one with --file: "
                f"{_listed(sorted(ggufs or graphs))}"
            )
            raise UsageError(message)
        return _named(repository, names, known)
    raise _no_weights(repository, names)


def _named(repository: str, names: Sequence[str], file: str) -> list[str]:
    """Give a file of weights, behind it what a graph keeps in files of their own."""
    if PurePosixPath(file).suffix not in (_GGUF, _ONNX):
        message = f"--file takes a .gguf or .onnx file, and {file!r} is none"
        raise UsageError(message)
    if file not in names:
        found = [name for name in names if name.endswith((_GGUF, _ONNX))]
        message = f"{repository} has no file {file!r}; it has {_listed(sorted(found)) or 'none'}"
        raise ModelError(message)
    if not file.endswith(_ONNX):
        return [file]
    data = [name for name in names if name.startswith((f"{file}_data", f"{file}.data"))]
    return [file, *sorted(data)]


def _no_weights(repository: str, names: Sequence[str]) -> ModelError:
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles:
        message = (
            f"{repository} has its weights as pickles alone ({pickles[0]}), which can run code and "
            "are never read; take a repository with safetensors or GGUF files"
        )
        return ModelError(message)
    return ModelError(f"{repository} has neither safetensors nor GGUF nor ONNX files")


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else ""
    return ", ".join(names[:_MAX_LISTED]) + more
