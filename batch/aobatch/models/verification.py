"""A model folder held against what it was when it was converted; nothing is computed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from aobatch.errors import ModelError
from aobatch.files import file_digest
from aobatch.models.checks.graph import check_decoder
from aobatch.models.checks.tokenizer import check_tokenizer
from aobatch.models.store.catalogue import find, list_models, not_found
from aobatch.models.store.folder import (
    DATA,
    FILES,
    GRAPH,
    INT8_CACHE_GRAPH,
    MANIFEST,
    TOKENIZER,
    ModelFolder,
    StoredFile,
    folder_digest,
    is_as_written,
    read_folder,
)

State: TypeAlias = Literal["ok", "failed", "not checked"]
_AGAIN = "convert or import the model again"


class Check(msgspec.Struct, frozen=True):
    """Something that was looked at."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do if it failed, or so that it can be checked."""


def locate(name: str) -> Path:
    """Give the folder of a model by name, alias or path, or a graph, whatever state it is in.

    ModelNotFoundError if there is none.
    """
    place = find(name)
    if place.kind is None or place.is_source:
        raise not_found(name, place, [row.name for row in list_models() if row.is_ready])
    return place.path.resolve() if place.kind == "model" else place.path


def check_files(path: Path) -> Iterator[Check]:
    """Look at the description, at each file and at the graphs; ModelError if there is no model."""
    folder = read_folder(path)
    if is_as_written(folder.path / MANIFEST):
        yield Check(MANIFEST, "ok", "as conversion wrote it")
    else:
        yield Check(MANIFEST, "failed", "it was edited since conversion", _AGAIN)
    files = folder.manifest.files
    for name in FILES:
        if name in files:
            yield _file(folder.path / name, files[name])
    is_whole = {GRAPH, DATA, TOKENIZER} <= files.keys()
    if not is_whole or folder_digest(files) != folder.manifest.digest:
        yield Check("digest", "failed", f"{MANIFEST} contradicts itself", _AGAIN)
    yield _attempted("graph", lambda: _graphs(folder))
    yield _attempted("vocabulary", lambda: _vocabulary(folder))


def _file(path: Path, stored: StoredFile) -> Check:
    try:
        size = path.stat().st_size
        is_same = size == stored.bytes and file_digest(path) == stored.sha256
    except OSError as error:
        return Check(path.name, "failed", f"it cannot be read: {error.strerror}", _AGAIN)
    if is_same:
        return Check(path.name, "ok", f"sha256 {stored.sha256[:12]}…, {size:,} bytes")
    found = f"{size:,} bytes, and not the {stored.bytes:,} that conversion wrote"
    if size == stored.bytes:
        found = f"as many bytes as conversion wrote, {size:,}, and others"
    return Check(path.name, "failed", found, _AGAIN)


def _graphs(folder: ModelFolder) -> str:
    sizes = folder.manifest.graph_sizes
    names = [GRAPH, *([INT8_CACHE_GRAPH] if folder.manifest.int8_cache.digest else [])]
    for name in names:
        check_decoder(folder.path / name, sizes)
    return f"operators, weights and sizes of {' and '.join(names)} are in order"


def _vocabulary(folder: ModelFolder) -> str:
    file = check_tokenizer(folder.tokenizer, folder.manifest.vocab_size)
    return f"{len(file.model.vocab):,} tokens and {len(file.added_tokens):,} added ones"


def _attempted(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except ModelError as error:
        return Check(name, "failed", str(error))
