"""A checkpoint into a model folder: graph, tokenizer, description, and the quality gate."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir as ir

from aobatch.arrays import Floats, TokenIds
from aobatch.errors import ModelError
from aobatch.models.claim import put_in_place, workspace
from aobatch.models.digest import file_digest
from aobatch.models.folder import (
    GRAPH,
    INT8_CACHE_GRAPH,
    MANIFEST,
    TOKENIZER,
    ModelFolder,
    open_folder,
)
from aobatch.models.graph import DecoderGraph
from aobatch.models.int8_cache import channel_scales, write_int8_cache_graph
from aobatch.models.manifest import (
    FORMAT,
    MAX_KL,
    Int8Cache,
    Manifest,
    Quality,
    write_manifest,
)
from aobatch.models.progress import Progress
from aobatch.models.quality import Scorer, chunks_of, measure, quality_text
from aobatch.models.recipes import recipes
from aobatch.models.spec import Checkpoint
from aobatch.models.tokenizer import VocabularyTokenizer
from aobatch.models.weight_file import WeightFile


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

    A precision other than fp32 is measured against fp32 by `scorer`. Raises ModelError if it is
    further away than the gate allows.
    """
    with workspace(target) as work:
        folder = work / "model"
        _write_graph(checkpoint, folder, precision, progress)
        reference = folder
        if precision != "fp32":
            reference = work / "reference"
            _write_graph(checkpoint, reference, "fp32", progress)
        tokenizer = VocabularyTokenizer(folder / TOKENIZER, checkpoint.spec.vocab_size)
        chunks = chunks_of(tokenizer.encode(quality_text()), checkpoint.spec.context_length)
        measured = _measure(folder, reference, chunks, scorer, progress)
        write_manifest(
            folder / MANIFEST, _manifest(checkpoint, folder, target.name, precision, measured)
        )
        open_folder(folder)  # a model that would be refused replaces none
        put_in_place(folder, target)
    return open_folder(target)


def _write_graph(checkpoint: Checkpoint, folder: Path, precision: str, progress: Progress) -> None:
    folder.mkdir()
    (folder / TOKENIZER).write_bytes(checkpoint.tokenizer_json)
    with WeightFile(folder / f"{GRAPH}.data") as weights:
        graph = DecoderGraph(checkpoint, recipes(precision, checkpoint.spec)[0], weights)
        model = graph.build(lambda done, total: progress(f"converting to {precision}", done, total))
    ir.save(model, folder / GRAPH)


def _measure(
    folder: Path,
    reference: Path,
    chunks: Sequence[TokenIds],
    scorer: Scorer,
    progress: Progress,
) -> tuple[Quality | None, Int8Cache]:
    """Add the graph over an int8 cache; measure both graphs, unless one is the reference.

    Raises ModelError if the first one is too far away; the second one is then only not kept.
    """
    # Every other chunk, so that half of the text judges scales that do not know it.
    _write_int8_cache_graph(folder, chunks[::2], scorer, progress)
    graphs = [INT8_CACHE_GRAPH, GRAPH]
    if reference == folder:
        # The reference is slow, and all that is in question here is its cache.
        graphs, chunks = graphs[:1], chunks[1::2] or chunks
    int8_cache, *own = measure(
        scorer(reference / GRAPH, chunks),
        [scorer(folder / graph, chunks) for graph in graphs],
        lambda done: progress("measuring quality", done, len(chunks)),
    )
    for quality in own:
        if not quality.is_close:
            message = (
                f"the converted model is too far from fp32 (KL {quality.kl:.4f}, at most "
                f"{MAX_KL}); use --precision fp32"
            )
            raise ModelError(message)
    if not int8_cache.is_close:
        (folder / INT8_CACHE_GRAPH).unlink()
    digest = file_digest(folder / INT8_CACHE_GRAPH) if int8_cache.is_close else ""
    return (own[0] if own else None), Int8Cache(int8_cache, digest)


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
    name: str,
    precision: str,
    measured: tuple[Quality | None, Int8Cache],
) -> Manifest:
    spec = checkpoint.spec
    return Manifest(
        format=FORMAT,
        name=name,
        family=spec.family,
        precision=precision,
        licence=checkpoint.licence,
        source=checkpoint.source,
        source_sha256=checkpoint.sha256,
        vocab_size=spec.vocab_size,
        hidden_size=spec.hidden_size,
        num_layers=spec.num_layers,
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
        context_length=spec.context_length,
        eos_token_ids=checkpoint.eos_token_ids,
        document_start_token_id=checkpoint.document_start_token_id,
        adds_document_start=checkpoint.adds_document_start,
        infill_token_ids=checkpoint.infill_token_ids,
        digest=_digest(folder),
        quality=measured[0],
        int8_cache=measured[1],
    )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (GRAPH, f"{GRAPH}.data", TOKENIZER):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
