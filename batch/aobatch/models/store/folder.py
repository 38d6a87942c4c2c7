"""A model folder: graphs that share their weights, tokenizer.json, model.toml."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeAlias

import msgspec
import tomli_w

from aobatch.errors import ModelError
from aobatch.kernels import BLOCK, CacheDtype, block_bytes
from aobatch.models import InfillOrder, MergedAdapter
from aobatch.models.checks import (
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    MAX_WIDTH,
    printable,
    read_regular,
    refusal,
)

FORMAT = 3
"""The layout of a model folder, its graphs' nodes included; another one is converted anew."""

MAX_KL = 0.02
"""What is further from fp32 than this, in nats a token, is refused."""

_MAX_NOTE = 4096
Width: TypeAlias = Annotated[int, msgspec.Meta(ge=1, le=MAX_WIDTH)]
TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=MAX_WIDTH)]


@dataclass(frozen=True, slots=True)
class GraphSizes:
    """What a decoder graph shows of its model by its inputs and outputs."""

    vocab_size: int
    num_layers: int
    num_kv_heads: int
    head_dim: int

    def kv_bytes_per_token(self, cache_dtype: CacheDtype) -> int:
        """Give the bytes of keys and values that one token keeps in the cache."""
        return (
            self.num_layers * self.num_kv_heads * block_bytes(cache_dtype, self.head_dim) // BLOCK
        )


@dataclass(frozen=True, slots=True)
class Hints:
    """Sizes in the files beside a graph, for those that it leaves open; 0 if there are none."""

    vocab_size: int = 0
    num_kv_heads: int = 0
    head_dim: int = 0


class Quality(msgspec.Struct, frozen=True):
    """How close a precision is to the fp32 graph of the same weights, on the shipped text."""

    kl: float
    """Mean Kullback-Leibler divergence KL(fp32 || this), in nats a token."""
    top1_agreement: float
    num_tokens: int

    @property
    def is_close(self) -> bool:
        """Whether it is close enough to be used."""
        return self.kl <= MAX_KL


class Fused(msgspec.Struct, frozen=True, omit_defaults=True):
    """The graph over fused operators: how close it is to fp32, or why there is none."""

    quality: Quality | None = None
    """With an int8 cache."""
    reason: str = ""
    """Why there is no such graph; empty if there is."""


class StoredFile(msgspec.Struct, frozen=True):
    """A file of the folder as conversion wrote it."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that is to be known of a model without opening its graph."""

    format: int
    name: Annotated[str, msgspec.Meta(max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]+$")]
    family: str
    precision: str
    licence: str
    source: str
    source_sha256: str
    vocab_size: Width
    hidden_size: Width
    num_layers: Annotated[int, msgspec.Meta(ge=1, le=MAX_LAYERS)]
    num_heads: Width
    num_kv_heads: Width
    head_dim: Width
    context_length: Width
    eos_token_ids: tuple[TokenId, ...]
    document_start_token_id: TokenId
    adds_document_start: bool
    infill_token_ids: tuple[TokenId, ...]
    """Ahead of a prefix, a suffix and, mostly, the middle; empty if there are no such tokens."""
    digest: str
    """sha256 over the graph, its data and the tokenizer."""
    fused: Fused
    quality: Quality | None = None
    chat_format: str = ""
    """How chats are written for it, see `chat.FORMATS`; empty if its vocabulary has to tell."""
    infill_order: InfillOrder = "PSM"
    """Whether prompts to fill in have the prefix first, or the suffix."""
    notes: tuple[Annotated[str, msgspec.Meta(max_length=_MAX_NOTE)], ...] = ()
    """What was not known of it, or left out, when it was converted."""
    recipe: str = ""
    """Which of the precision's ways to compute was close enough."""
    adapters: tuple[MergedAdapter, ...] = ()
    """What was merged into the weights of the source before they were converted."""
    files: dict[str, StoredFile] = {}
    """The graphs, their data and the tokenizer by name; empty for an export."""
    seal: str = ""
    """sha256 of all that stands here beside it; empty for an export."""

    @property
    def graph_sizes(self) -> GraphSizes:
        """Sizes that the graphs must have."""
        return GraphSizes(self.vocab_size, self.num_layers, self.num_kv_heads, self.head_dim)


class _Layout(msgspec.Struct):
    format: int
    name: str


def read_manifest(path: Path) -> Manifest:
    """Read a model.toml; ModelError says what is wrong with it, or that its layout is another."""
    content = read_regular(path, MAX_MANIFEST_BYTES)
    try:
        layout = msgspec.toml.decode(content, type=_Layout)
        if layout.format == FORMAT:
            manifest = msgspec.toml.decode(content, type=Manifest)
            _check(manifest, path)
            return manifest
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        message = f"{path} is not a readable model description: {printable(str(error))}"
        raise ModelError(message) from error
    name = printable(layout.name)
    message = (
        f"{path.parent} has layout {layout.format}, this aobatch reads {FORMAT}; convert it again "
        f"with `aobatch models pull {name}`, or `aobatch models import` if you imported it"
    )
    raise ModelError(message)


def _check(manifest: Manifest, path: Path) -> None:
    infill = manifest.infill_token_ids
    largest = max(*manifest.eos_token_ids, *infill, manifest.document_start_token_id, 0)
    if largest >= manifest.vocab_size:
        raise refusal(path, f"token {largest} is outside its vocabulary of {manifest.vocab_size}")
    if len(infill) not in ((0, 3) if manifest.infill_order == "PSM" else (2, 3)):
        raise refusal(path, f"it has {len(infill)} infill tokens, not 3 or none")
    if manifest.num_heads % manifest.num_kv_heads:
        reason = f"{manifest.num_heads} heads cannot share {manifest.num_kv_heads} of keys"
        raise refusal(path, reason)


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write a model.toml, sealed."""
    fields = {
        key: value for key, value in msgspec.to_builtins(manifest).items() if value is not None
    }
    fields["seal"] = _seal(fields)
    path.write_text(tomli_w.dumps(fields), encoding="utf-8")


def is_as_written(path: Path) -> bool:
    """Say whether a sealed model.toml is as it was written; ModelError if it cannot be read."""
    read_manifest(path)
    fields = msgspec.toml.decode(read_regular(path, MAX_MANIFEST_BYTES), type=dict[str, object])
    return fields.get("seal") == _seal(fields)


def _seal(fields: Mapping[str, object]) -> str:
    """Take the checksum of the fields beside the seal, in whatever order they stand."""
    sealed = {name: value for name, value in fields.items() if name != "seal"}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


GRAPH, TOKENIZER, MANIFEST = "model.onnx", "tokenizer.json", "model.toml"
DATA = f"{GRAPH}.data"
FUSED_GRAPH = "model.fused.onnx"
FILES = (GRAPH, DATA, TOKENIZER, FUSED_GRAPH)
"""What is written beside the description, the last one not always."""
FORMER_FILES = ("model.kv-int8.onnx",)
"""What earlier layouts had, which a new conversion may replace."""


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Where a converted model lies, and what it says of itself."""

    path: Path
    manifest: Manifest

    @property
    def size_bytes(self) -> int:
        """Bytes on disk."""
        return sum(file.stat().st_size for file in self.path.iterdir() if file.is_file())

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.path / TOKENIZER

    def kv_bytes_per_token(self, cache_dtype: CacheDtype = "fp32") -> int:
        """Give the bytes that a token of a slot takes while the model runs."""
        return self.manifest.graph_sizes.kv_bytes_per_token(cache_dtype)

    @property
    def graph(self) -> Path:
        """The graph of ONNX Runtime's operators."""
        return self.path / GRAPH

    @property
    def fused_graph(self) -> Path:
        """The same decoder over operators of our own, if the model has such a graph."""
        return self.path / FUSED_GRAPH


def has_file(path: Path, name: str) -> bool:
    """Say whether a folder has that file; one that cannot be looked into, or named, has none."""
    try:
        return (path / name).is_file()
    except OSError:
        return False


def open_folder(path: Path) -> ModelFolder:
    """Open a model folder; ModelError if something is missing, replaced or of another layout.

    The folder may be reached through links, its files may not be links (see `checks.files`). Of
    its files the sizes are looked at, which takes no time; `aobatch models verify` reads them.
    """
    folder = read_folder(path)
    files = folder.manifest.files
    for name in filter(files.__contains__, FILES):
        size, expected = _size(folder.path, name), files[name].bytes
        if size != expected:
            found = "is missing" if size is None else f"has {size} bytes, not {expected}"
            message = (
                f"{folder.path} was changed since it was converted: {name} {found}; see "
                f"`aobatch models verify {folder.manifest.name}`, and convert the model again"
            )
            raise ModelError(message)
    return folder


def read_folder(path: Path) -> ModelFolder:
    """Read a model folder as it describes itself, true or not; ModelError if it is none."""
    path = path.resolve()
    for name in (GRAPH, TOKENIZER, MANIFEST):
        if not has_file(path, name):
            message = f"{path} is not a model folder: {name} is missing"
            raise ModelError(message)
    return ModelFolder(path, read_manifest(path / MANIFEST))


def _size(path: Path, name: str) -> int | None:
    try:
        return (path / name).stat().st_size
    except OSError:
        return None


def folder_digest(files: Mapping[str, StoredFile]) -> str:
    """Take the sha256 over the graph, its data and the tokenizer."""
    parts = [bytes.fromhex(files[name].sha256) for name in (GRAPH, DATA, TOKENIZER)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
