"""A checkpoint into a model folder: graph, tokenizer, description, and the quality gate."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir

from aobatch.arrays import Floats, TokenIds
from aobatch.errors import ModelError
from aobatch.files import file_digest
from aobatch.models import Progress
from aobatch.models.convert.graph import DecoderGraph
from aobatch.models.convert.precisions import (
    FP32,
    Precision,
    channel_scales,
    recipes,
    write_int8_cache_graph,
)
from aobatch.models.convert.quality import Scorer, affordable, measure, quality_chunks
from aobatch.models.spec import DESCRIBED_SIZES, DESCRIBED_TOKENS, Checkpoint
from aobatch.models.store.card import check_place
from aobatch.models.store.folder import (
    DATA,
    FILES,
    FORMAT,
    GRAPH,
    INT8_CACHE_GRAPH,
    MANIFEST,
    MAX_KL,
    TOKENIZER,
    Int8Cache,
    Manifest,
    ModelFolder,
    Quality,
    StoredFile,
    folder_digest,
    open_folder,
    write_manifest,
)
from aobatch.models.store.making import put_in_place, workspace
from aobatch.models.tokenizer import VocabularyTokenizer


def convert(
    checkpoint: Checkpoint,
    target: Path,
    *,
    precision: str,
    scorer: Scorer,
    progress: Progress,
) -> ModelFolder:
    """Write a model folder at target, in one piece: it appears when all is done, or not at all.

    The caller has claimed the target.

    A precision other than fp32 is measured against fp32 by `scorer`; of the ways to compute in it
    the first that the gate allows is taken. Raises ModelError if there is none, and OutputError if
    what is at target is no model.
    """
    check_place(target)
    kl = 0.0
    with workspace(target) as work:
        folder = reference = work / "model"
        if precision != "fp32":
            reference = work / "reference"
            write_graph(checkpoint, reference, FP32, progress)
        for recipe, way in recipes(precision, checkpoint.spec).items():
            shutil.rmtree(folder, ignore_errors=True)
            write_graph(checkpoint, folder, way, progress)
            own, int8_cache = _measure(checkpoint, folder, reference, scorer, progress)
            if own is None or own.is_close:
                names = {"name": target.name, "precision": precision, "recipe": recipe}
                manifest = _manifest(checkpoint, folder, names, (own, int8_cache))
                write_manifest(folder / MANIFEST, manifest)
                open_folder(folder)  # a model that would be refused replaces none
                put_in_place(folder, target)
                return open_folder(target)
            kl = own.kl
    message = (
        f"the converted model is too far from fp32 (KL {kl:.4f}, at most {MAX_KL}); use "
        "--precision fp32"
    )
    raise ModelError(message)


def write_graph(
    checkpoint: Checkpoint, folder: Path, precision: Precision, progress: Progress
) -> None:
    """Write graph, weights and tokenizer into a new folder; weights are never all in memory."""
    folder.mkdir()
    (folder / TOKENIZER).write_bytes(checkpoint.tokenizer_json)
    stage = f"converting to {precision.name}"
    with (folder / DATA).open("wb") as file:
        graph = DecoderGraph(checkpoint, precision, file)
        model = graph.build(lambda done, total: progress(stage, done, total))
    ir.save(model, folder / GRAPH)


def _measure(
    checkpoint: Checkpoint, folder: Path, reference: Path, scorer: Scorer, progress: Progress
) -> tuple[Quality | None, Int8Cache]:
    """Add the graph over an int8 cache, unless it is too far from fp32; measure both graphs.

    The folder's own has no figures if it is the reference.
    """
    tokenizer = VocabularyTokenizer(folder / TOKENIZER, checkpoint.spec.vocab_size)
    start = checkpoint.document_start_token_id if checkpoint.adds_document_start else None
    chunks = quality_chunks(tokenizer, checkpoint.spec.context_length, start)
    # Every other chunk, so that half of the text judges scales that do not know it.
    _write_int8_cache_graph(folder, chunks[::2], scorer, progress)
    graphs = [INT8_CACHE_GRAPH, GRAPH]
    if reference == folder:
        # The reference is slow, and all that is in question here is its cache.
        graphs, chunks = graphs[:1], chunks[1::2] or chunks
    chunks = affordable(chunks, checkpoint.spec.vocab_size)
    num_tokens = sum(map(len, chunks))
    int8_cache, *own = measure(
        scorer.reference(reference / GRAPH, chunks),
        [scorer(folder / graph, chunks) for graph in graphs],
        lambda done: progress("measuring quality", done, num_tokens),
    )
    if not int8_cache.is_close:
        (folder / INT8_CACHE_GRAPH).unlink()
    digest = file_digest(folder / INT8_CACHE_GRAPH) if int8_cache.is_close else ""
    return own[0] if own else None, Int8Cache(int8_cache, digest)


def _write_int8_cache_graph(
    folder: Path, chunks: Sequence[TokenIds], scorer: Scorer, progress: Progress
) -> None:
    def followed() -> Iterator[Mapping[str, Floats]]:
        for done, cache in enumerate(scorer.caches(folder / GRAPH, chunks), start=1):
            yield cache
            progress("measuring keys and values", done, len(chunks))

    write_int8_cache_graph(folder / GRAPH, folder / INT8_CACHE_GRAPH, channel_scales(followed()))


def _manifest(
    checkpoint: Checkpoint,
    folder: Path,
    names: Mapping[str, Any],
    measured: tuple[Quality | None, Int8Cache],
) -> Manifest:
    paths = [folder / name for name in FILES if (folder / name).exists()]
    files = {path.name: StoredFile(path.stat().st_size, file_digest(path)) for path in paths}
    return Manifest(
        **{name: getattr(checkpoint.spec, name) for name in ("family", *DESCRIBED_SIZES)},
        **{name: getattr(checkpoint, name) for name in ("licence", "source", *DESCRIBED_TOKENS)},
        **names,
        format=FORMAT,
        source_sha256=checkpoint.sha256,
        digest=folder_digest(files),
        quality=measured[0],
        int8_cache=measured[1],
        files=files,
    )
