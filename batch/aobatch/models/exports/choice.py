"""Which graph of a folder is meant: by its description, else by the names that tools give."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.models.checks.files import read_regular
from aobatch.models.checks.links import own_file

SUFFIX = ".onnx"
TOKENIZER = "tokenizer.json"
GENAI_CONFIG = "genai_config.json"

STEMS = ("model", "decoder_model_merged", "decoder_with_past_model")
ENDINGS = (
    *("", "_q4", "_quantized", "_int8", "_uint8", "_q8", "_bnb4", "_fp16", "_q4f16"),
    *("_q2", "_q1", "_q2f16", "_q1f16"),
)
"""Of the graphs of one folder the first is taken: full precision, then what is close to it, and
half precision late, which processors compute slowly."""
_FOLDERS = ("", "onnx")
_MAX_CONFIG_BYTES = 1 << 20


class _Decoder(msgspec.Struct):
    filename: str = ""
    pipeline: object = None


class _Model(msgspec.Struct):
    decoder: _Decoder = msgspec.field(default_factory=_Decoder)


class _GenaiConfig(msgspec.Struct):
    model: _Model = msgspec.field(default_factory=_Model)


def is_export(path: Path) -> bool:
    """Say whether a path looks like an exported graph or a folder of one; it may still be none."""
    try:
        if path.suffix == SUFFIX:
            return path.is_file()
        folder = unpacked(path)
        return next(_graphs(folder), None) is not None or (folder / GENAI_CONFIG).is_file()
    except OSError:
        return False


def unpacked(path: Path) -> Path:
    """Give the folder of files that a hub's cache has for its main revision, else the path."""
    if not path.name.startswith("models--"):
        return path
    try:
        revision = (path / "refs/main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return path
    # What a file says is taken for the name of a neighbour, never for a way elsewhere.
    return path / "snapshots" / Path(revision).name


def find_graph(path: Path) -> tuple[Path, Path]:
    """Give the folder of the tokenizer and the graph; ModelError if it is not clear which one."""
    if path.suffix == SUFFIX:
        graph = path.parent.resolve() / path.name
        return _home(graph), graph
    folder = unpacked(path).resolve()
    return folder, _described(folder) or _chosen(folder)


def _home(graph: Path) -> Path:
    """Give the folder that a graph belongs to: its own, or the one around `onnx/`."""
    has_tokenizer = (graph.parent / TOKENIZER).exists()
    return graph.parent if has_tokenizer or graph.parent.name != "onnx" else graph.parent.parent


def _described(folder: Path) -> Path | None:
    """Give the graph that genai_config.json names, if there is one."""
    path = folder / GENAI_CONFIG
    if not path.is_file():
        return None
    try:
        content = read_regular(own_file(path), _MAX_CONFIG_BYTES)
        decoder = msgspec.json.decode(content, type=_GenaiConfig).model.decoder
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"{path} is no description of a model: {error}"
        raise ModelError(message) from error
    if decoder.pipeline:
        message = f"{folder} cannot run here: it is cut into a pipeline for other processors"
        raise ModelError(message)
    if Path(decoder.filename).name != decoder.filename or not decoder.filename:
        message = f"{path} names no graph in its own folder; export the model again"
        raise ModelError(message)
    return folder / decoder.filename


def _chosen(folder: Path) -> Path:
    graphs = list(_graphs(folder))
    names = [f"{stem}{ending}" for ending in ENDINGS for stem in STEMS]
    known = sorted((g for g in graphs if g.stem in names), key=lambda g: names.index(g.stem))
    if known or len(graphs) == 1:
        return (known or graphs)[0]
    if not graphs:
        message = f"{folder} has no {SUFFIX} file; export the model again"
        raise ModelError(message)
    message = (
        f"{folder} has {len(graphs)} graphs of unknown names; name the one that is meant, such as "
        f"{graphs[0].relative_to(folder)}, by its path"
    )
    raise ModelError(message)


def _graphs(folder: Path) -> Iterator[Path]:
    for name in _FOLDERS:
        yield from sorted((folder / name).glob(f"*{SUFFIX}"))
