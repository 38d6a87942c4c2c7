"""A folder of an exported graph, with the facts that a converted model has in its model.toml.

Which graph is meant is chosen by name; what the files beside it say is joined; and all of it is
remembered until a file changes, so that weights are read through once.
"""

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from aobatch.errors import ModelError
from aobatch.files import cache_folder, file_digest
from aobatch.kernels import CacheDtype
from aobatch.models.checks import (
    MAX_WIDTH,
    POINTER,
    POINTER_ADVICE,
    open_regular,
    own_file,
    unusable,
)
from aobatch.models.source.fields import Fields
from aobatch.models.source.tokenizer_json import read_optional_fields, read_tokenizer
from aobatch.models.store.folder import (
    FORMAT,
    TOKENIZER,
    Fused,
    Hints,
    Manifest,
    ModelFolder,
)

if TYPE_CHECKING:
    from aobatch.models.foreign_layout import Layout

SUFFIX = ".onnx"
_GENAI_CONFIG = "genai_config.json"
_CONFIGS = (
    *("config.json", "generation_config.json", "tokenizer_config.json", "chat_template.jinja"),
    _GENAI_CONFIG,
)

_STEMS = ("model", "decoder_model_merged", "decoder_with_past_model")
_ENDINGS = (
    *("", "_q4", "_quantized", "_int8", "_uint8", "_q8", "_bnb4", "_fp16", "_q4f16"),
    *("_q2", "_q1", "_q2f16", "_q1f16"),
)
"""Of the graphs of one folder the first is taken: full precision, then what is close to it, and
half precision late, which processors compute slowly."""

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
    kv_bytes_per_token: int
    """What `ModelFolder.kv_bytes_per_token` gives."""
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class ExportedFolder(ModelFolder):
    """Where an export lies; `path` opens it again, and is its graph if that was named."""

    description: Description

    @property
    def folder(self) -> Path:
        """The folder of the tokenizer."""
        return Path(self.description.folder)

    @property
    def files(self) -> list[Path]:
        """All files that it is made of; those of two folders have different names."""
        return [Path(name) for name, known in self.description.stamps.items() if known]

    @property
    def size_bytes(self) -> int:
        """Bytes of the graph and its weights."""
        graph = self.graph
        files = [graph, *(graph.with_name(name) for name in self.description.data_names)]
        return sum(file.stat().st_size for file in files)

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file, behind whatever link a cache has."""
        return own_file(self.folder / TOKENIZER)

    def kv_bytes_per_token(self, cache_dtype: CacheDtype = "fp32") -> int:  # noqa: ARG002
        """Give the bytes that a token of a slot takes while the graph runs over its own cache."""
        return self.description.kv_bytes_per_token

    @property
    def graph(self) -> Path:
        """The graph."""
        return Path(self.description.graph)


def open_export(path: Path) -> ExportedFolder:
    """Open a folder of an exported graph, or one graph of it, by its path.

    Raises ModelError if it is none that can run here.
    """
    if path.suffix == SUFFIX:
        graph = path.parent.resolve() / path.name
        # Repositories for browsers have their graphs in a folder of their own.
        is_inner = graph.parent.name == "onnx" and not (graph.parent / TOKENIZER).exists()
        folder = graph.parents[1] if is_inner else graph.parent
    else:
        folder = unpacked(path).resolve()
        graph = _described(folder) or _chosen(folder)
    description = _recall(graph)
    if description is None:
        description = describe(folder, graph)
        _remember(graph, description)
    found = graph if path.is_file() else folder
    return ExportedFolder(found, description.manifest, description=description)


def is_export(path: Path) -> bool:
    """Say whether a path looks like an exported graph or a folder of one; it may still be none."""
    try:
        if path.suffix == SUFFIX:
            return path.is_file()
        folder = unpacked(path)
        return next(_graphs(folder), None) is not None or (folder / _GENAI_CONFIG).is_file()
    except OSError:
        return False


def unpacked(path: Path) -> Path:
    """Give the folder of files that a hub's cache has for its main or only revision, else the path.

    The cache calls it `models--ORG--NAME`.
    """
    if not path.name.startswith("models--"):
        return path
    try:
        revision = (path / "refs/main").read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        found = [*(path / "snapshots").glob("*")]
        return found[0] if len(found) == 1 else path
    # What a file says is taken for the name of a neighbour, never for a way elsewhere.
    return path / "snapshots" / Path(revision).name


def _genai(folder: Path) -> tuple[Fields, Fields]:
    """Give what genai_config.json says of the model and of its decoder, nothing without it."""
    config = read_optional_fields(own_file(folder / _GENAI_CONFIG))
    model = config.section("model") if "model" in config else config
    return model, model.section("decoder") if "decoder" in model else model


def _described(folder: Path) -> Path | None:
    """Give the graph that genai_config.json names, if there is one."""
    path = folder / _GENAI_CONFIG
    if not path.is_file():
        return None
    _, decoder = _genai(folder)
    if decoder.get("pipeline"):
        message = f"{folder} cannot run here: it is cut into a pipeline for other processors"
        raise ModelError(message)
    name = decoder.get("filename")
    if not isinstance(name, str) or Path(name).name != name or not name:
        message = f"{path} names no graph in its own folder; export the model again"
        raise ModelError(message)
    return folder / name


def _chosen(folder: Path) -> Path:
    graphs = list(_graphs(folder))
    names = [f"{stem}{ending}" for ending in _ENDINGS for stem in _STEMS]
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
    for place in (folder, folder / "onnx"):
        yield from sorted(place.glob(f"*{SUFFIX}"))


def describe(folder: Path, graph: Path) -> Description:
    """Check an export and give all that is to be known of it.

    Raises ModelError if it cannot run here.
    """
    # An export that is known already is found without the library that reads graphs.
    from aobatch.models.foreign_layout import read_export

    if not (folder / TOKENIZER).exists():
        raise unusable(folder, f"it has no {TOKENIZER}, which says how the model splits text")
    before = _stamp(graph)
    _check_content(graph)
    facts = _read_facts(folder)
    layout, data_names = read_export(graph, facts.hints)
    data = [graph.with_name(name) for name in data_names]
    files = [graph, *data, folder / TOKENIZER, *(folder / name for name in _CONFIGS)]
    stamps = {str(path): _stamp(path) for path in files}
    digest = _digest([path for path in files if stamps[str(path)]])
    if any(_stamp(Path(name)) != known for name, known in ((str(graph), before), *stamps.items())):
        raise unusable(folder, "its files change while they are read; run again when they are done")
    return Description(
        folder=str(folder),
        graph=str(graph),
        data_names=data_names,
        stamps=stamps,
        hints=facts.hints,
        kv_bytes_per_token=layout.kv_bytes_per_token,
        manifest=_manifest(folder, graph, layout, facts, digest),
    )


def _check_content(graph: Path) -> None:
    """Raise ModelError if a graph, or a file that looks like its weights, is only a pointer."""
    for path in (graph, *sorted(graph.parent.glob(f"{graph.name}[._]data*"))):
        with open_regular(own_file(path)) as (file, _):
            if file.read(len(POINTER)) == POINTER:
                message = f"{path} {POINTER_ADVICE}"
                raise ModelError(message)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = own_file(path)
        with open_regular(content):  # nothing that would wait, or lead elsewhere
            digest.update(path.name.encode() + bytes.fromhex(file_digest(content)))
    return digest.hexdigest()


_DEFAULT_CONTEXT = 2048
"""For a graph without any file that says how far its positions reach."""
_CONTEXTS = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length")
_TEXT_PARTS = ("text_config", "llm_config")


@dataclass(frozen=True, slots=True)
class _Facts:
    """Sizes as the files state them, 0 where they do not."""

    hints: Hints
    hidden_size: int
    num_heads: int
    context_length: int
    tokens: Fields
    """`eos_token_id` and `bos_token_id` of all files together."""


def _read_facts(folder: Path) -> _Facts:
    """Read the descriptions of a folder; ModelError if one of them cannot be read."""
    config = read_optional_fields(folder / "config.json")
    parts = [config, *(config.section(key) for key in _TEXT_PARTS if key in config)]
    model, decoder = _genai(folder)
    sources = [decoder, *reversed(parts), model]
    tokenizer = read_optional_fields(folder / "tokenizer_config.json")
    hidden = _first(sources, "hidden_size", "n_embd")
    heads = _first(sources, "num_attention_heads", "n_head")
    contexts = [
        *_sizes(sources, *_CONTEXTS),
        *_sizes([model], "context_length"),
        *_sizes([tokenizer], "model_max_length"),
    ]
    return _Facts(
        hints=Hints(
            vocab_size=_first(sources, "vocab_size"),
            num_kv_heads=_first(sources, "num_key_value_heads") or heads,
            head_dim=_first(sources, "head_dim", "head_size") or (hidden // heads if heads else 0),
        ),
        hidden_size=hidden,
        num_heads=heads,
        context_length=min(contexts, default=_DEFAULT_CONTEXT),
        tokens=_tokens(folder, [*parts, model]),
    )


def _sizes(sources: list[Fields], *names: str) -> Iterator[int]:
    """Yield what is a size; tokenizers without a limit state one of thirty digits."""
    for fields in sources:
        for name in names:
            value = fields.get(name)
            if type(value) is int and 0 < value <= MAX_WIDTH:
                yield value


def _first(sources: list[Fields], *names: str) -> int:
    return next(_sizes(sources, *names), 0)


def _tokens(folder: Path, sources: list[Fields]) -> Fields:
    """Join what configurations say; what generation_config.json says is joined where it is read."""
    values: dict[str, object] = {}
    for name in ("eos_token_id", "bos_token_id"):
        found = [fields.get(name) for fields in sources]
        flat = [x for value in found for x in (value if isinstance(value, list) else [value])]
        values[name] = [index for index in flat if type(index) is int]
    return Fields(values, str(folder))


def _manifest(folder: Path, graph: Path, layout: "Layout", facts: _Facts, digest: str) -> Manifest:
    if not (folder / TOKENIZER).exists():  # which is read where it lies
        facts.tokens.refuse(f"its folder has no {TOKENIZER}, which says how the model splits text")
    _, tokens, _ = read_tokenizer(folder, facts.tokens, layout.vocab_size)
    num_heads = facts.num_heads or layout.num_kv_heads
    cache = folder.parent.parent.name
    # In a hub's cache a folder is named by its revision, and the cache by the model.
    is_cached = folder.parent.name == "snapshots" and cache.startswith("models--")
    return Manifest(
        format=FORMAT,
        name=cache.removeprefix("models--").replace("--", "/") if is_cached else folder.name,
        family="export-gqa" if layout.shares_buffers else "export",
        precision=layout.precision,
        licence="unknown",
        source=str(graph.relative_to(folder)),
        source_sha256="",
        vocab_size=layout.vocab_size,
        hidden_size=facts.hidden_size or num_heads * layout.head_dim,
        num_layers=len({cache.layer for cache in layout.caches}),
        num_heads=num_heads,
        num_kv_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        context_length=facts.context_length,
        **asdict(tokens),
        digest=digest,
        fused=Fused(reason="it is an export, which runs as it is"),
    )


_VERSION = 2
"""Of what is remembered; other versions know nothing."""
_SETTLED_NANOSECONDS = 2 * 10**9
"""A file that changed so lately could change again without a new time."""


def _stamp(path: Path) -> Stamp:
    """Tell one state of a file from any other, without reading it."""
    try:
        status = own_file(path).lstat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _recall(graph: Path) -> Description | None:
    """Give what is known of a graph; None if that is nothing, or a file has changed since."""
    try:
        found = msgspec.json.decode(_record(graph).read_bytes(), type=Description)
    except (OSError, RuntimeError, ValueError):
        return None
    has_same_files = all(_stamp(Path(name)) == known for name, known in found.stamps.items())
    return found if found.graph == str(graph) and has_same_files else None


def _remember(graph: Path, description: Description) -> None:
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
    name = hashlib.sha256(os.fsencode(graph)).hexdigest()[:32]
    return cache_folder() / "exports" / f"{name}.{_VERSION}.json"
