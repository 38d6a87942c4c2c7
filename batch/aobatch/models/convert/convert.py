"""A checkpoint into a model folder: graph, tokenizer, description, and the quality gate."""

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from threading import Lock
from typing import Any

import onnx_ir as ir

from aobatch.arrays import Logits, TokenIds
from aobatch.errors import ModelError
from aobatch.files import file_digests, joined_digest
from aobatch.kernels import KernelsError
from aobatch.models import Progress
from aobatch.models.convert.fused import not_fusable, write_fused_graph
from aobatch.models.convert.graph import DecoderGraph, StagedDecoder
from aobatch.models.convert.precisions import Precision, recipes
from aobatch.models.convert.quality import Scorer, affordable, measure, quality_chunks
from aobatch.models.convert.writer import GraphWriter
from aobatch.models.source.decoder import decoder_shapes
from aobatch.models.spec import DESCRIBED_SIZES, DESCRIBED_TOKENS, Checkpoint, Weight
from aobatch.models.store.card import check_place
from aobatch.models.store.folder import (
    DATA,
    FILES,
    FORMAT,
    FUSED_GRAPH,
    GRAPH,
    MANIFEST,
    MAX_KL,
    TOKENIZER,
    Fused,
    GraphSizes,
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

    The caller has claimed the target. A precision other than fp32 is measured against fp32 by
    `scorer`; of the ways to compute in it the first that the gate allows is taken. Raises
    ModelError if there is none, and OutputError if what is at target is no model.
    """
    check_place(target)
    kl = 0.0
    with workspace(target) as work:
        folder = work / "model"
        gate = None if precision == "fp32" else _Gate(checkpoint, scorer, progress)
        for recipe, way in recipes(precision, checkpoint.spec).items():
            shutil.rmtree(folder, ignore_errors=True)
            own, fused = None, _write_graphs(checkpoint, folder, recipe, way, progress)
            if gate is not None:
                own, fused = gate.measure(folder, fused)
            if own is None or own.is_close:
                names = {"name": target.name, "precision": precision, "recipe": recipe}
                manifest = _manifest(checkpoint, folder, names, (own, fused), progress)
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
    counted = _counted(checkpoint, partial(progress, f"converting to {precision.name}"))
    with (folder / DATA).open("wb") as file:
        writer = GraphWriter(checkpoint.spec.family, file)
        model = DecoderGraph(counted, precision, writer).build()
    ir.save(model, folder / GRAPH)


def _counted(checkpoint: Checkpoint, advance: Callable[[int, int], None]) -> Checkpoint:
    """Give the same checkpoint, which tells how many of all its weights were loaded once."""
    sizes = {name: prod(shape) for name, shape in decoder_shapes(checkpoint.spec).items()}
    loaded, total, lock = dict.fromkeys(sizes, 0), sum(sizes.values()), Lock()

    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight = checkpoint.load(name, start, stop)
        with lock:
            loaded[name] = min(sizes[name], loaded[name] + weight.size)
            advance(sum(loaded.values()), total)
        return weight

    return replace(checkpoint, load=load)


def _write_graphs(
    checkpoint: Checkpoint, folder: Path, recipe: str, way: Precision, progress: Progress
) -> Fused:
    """Write the graph and, if the operators hold the decoder, the fused one, not measured yet."""
    write_graph(checkpoint, folder, way, progress)
    reason = not_fusable(checkpoint.spec, recipe)
    if not reason:
        write_fused_graph(folder / GRAPH, folder / FUSED_GRAPH, checkpoint.spec)
    return Fused(reason=reason)


class _Gate:
    """Measures converted graphs of a checkpoint, one after the other, by full precision."""

    def __init__(self, checkpoint: Checkpoint, scorer: Scorer, progress: Progress) -> None:
        self._checkpoint, self._scorer, self._progress = checkpoint, scorer, progress
        self._chunks: list[TokenIds] = []
        self._expected: list[Logits] = []

    def _prepare(self, tokenizer: Path) -> None:
        """Compute in full precision what the graphs are compared with, once."""
        checkpoint, spec = self._checkpoint, self._checkpoint.spec
        start = checkpoint.document_start_token_id if checkpoint.adds_document_start else None
        vocabulary = VocabularyTokenizer(tokenizer, spec.vocab_size)
        chunks = quality_chunks(vocabulary, spec.context_length, start)
        num_weights = sum(map(prod, decoder_shapes(spec).values()))
        self._chunks = affordable(chunks, spec.vocab_size, num_weights)
        decoder = StagedDecoder(_counted(checkpoint, partial(self._progress, "computing in fp32")))
        reference = self._scorer.reference(decoder, self._chunks)
        self._expected = [logits.copy() for logits in reference]

    def measure(self, folder: Path, written: Fused) -> tuple[Quality, Fused]:
        """Measure a folder's graphs; a fused one that is far, or fails, goes."""
        fused, reason = folder / FUSED_GRAPH, written.reason
        if not self._expected:
            self._prepare(folder / TOKENIZER)
        own = self._quality("measuring quality", self._scorer(folder / GRAPH, self._chunks))
        quality = None
        try:
            quality = None if reason else self._fused_quality(fused)
        except KernelsError as error:
            reason = f"they could not be tried when it was converted ({error}); convert it again"
        if quality is not None and not quality.is_close:
            reason = f"with them it is too far from fp32 (KL {quality.kl:.4f}, at most {MAX_KL})"
        if reason:
            fused.unlink(missing_ok=True)
        return own, Fused(quality, reason)

    def _fused_quality(self, graph: Path) -> Quality:
        spec = self._checkpoint.spec
        sizes = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
        found = self._scorer.fused(graph, sizes, self._chunks)
        return self._quality("measuring fused operators", found)

    def _quality(self, stage: str, found: Iterator[Logits]) -> Quality:
        total = sum(map(len, self._chunks))
        # One after the other: a session keeps a copy of all weights.
        (quality,) = measure(
            self._expected, [found], lambda done: self._progress(stage, done, total)
        )
        return quality


def _manifest(
    checkpoint: Checkpoint,
    folder: Path,
    names: Mapping[str, Any],
    measured: tuple[Quality | None, Fused],
    progress: Progress,
) -> Manifest:
    paths = [folder / name for name in FILES if (folder / name).exists()]
    sources = checkpoint.files
    digests = _checksums([*sources, *paths], progress)
    own = zip(paths, digests[len(sources) :], strict=True)
    files = {path.name: StoredFile(path.stat().st_size, digest) for path, digest in own}
    return Manifest(
        **{name: getattr(checkpoint.spec, name) for name in ("family", *DESCRIBED_SIZES)},
        **{name: getattr(checkpoint, name) for name in ("licence", "source", *DESCRIBED_TOKENS)},
        **names,
        format=FORMAT,
        source_sha256=joined_digest(digests[: len(sources)]),
        adapters=checkpoint.adapters,
        digest=folder_digest(files),
        quality=measured[0],
        fused=measured[1],
        notes=tuple(filter(None, (*checkpoint.warnings, checkpoint.left_out))),
        files=files,
    )


def _checksums(paths: Sequence[Path], progress: Progress) -> tuple[str, ...]:
    total, done = sum(path.stat().st_size for path in paths), 0

    def advance(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        progress("taking checksums", done, total)

    return file_digests(paths, advance)
