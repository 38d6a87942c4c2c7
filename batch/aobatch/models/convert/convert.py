"""A checkpoint into a model folder: graph, tokenizer, description, and the quality gate."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx_ir as ir

from aobatch.errors import ModelError
from aobatch.files import file_digest
from aobatch.kernels import KernelsError
from aobatch.models import Progress
from aobatch.models.convert.fused import not_fusable, write_fused_graph
from aobatch.models.convert.graph import DecoderGraph
from aobatch.models.convert.precisions import (
    FP32,
    Precision,
    recipes,
)
from aobatch.models.convert.quality import Scorer, affordable, measure, quality_chunks
from aobatch.models.spec import DESCRIBED_SIZES, DESCRIBED_TOKENS, Checkpoint
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
        folder = reference = work / "model"
        if precision != "fp32":
            reference = work / "reference"
            write_graph(checkpoint, reference, FP32, progress)
        for recipe, way in recipes(precision, checkpoint.spec).items():
            shutil.rmtree(folder, ignore_errors=True)
            own, fused = None, _write_graphs(checkpoint, folder, recipe, way, progress)
            if reference != folder:
                own, fused = _measure(checkpoint, (folder, reference), fused, scorer, progress)
            if own is None or own.is_close:
                names = {"name": target.name, "precision": precision, "recipe": recipe}
                manifest = _manifest(checkpoint, folder, names, (own, fused))
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


def _write_graphs(
    checkpoint: Checkpoint, folder: Path, recipe: str, way: Precision, progress: Progress
) -> Fused:
    """Write the graph and, if the operators hold the decoder, the fused one, not measured yet."""
    write_graph(checkpoint, folder, way, progress)
    reason = not_fusable(checkpoint.spec, recipe)
    if not reason:
        write_fused_graph(folder / GRAPH, folder / FUSED_GRAPH, checkpoint.spec)
    return Fused(reason=reason)


def _measure(
    checkpoint: Checkpoint,
    folders: tuple[Path, Path],
    written: Fused,
    scorer: Scorer,
    progress: Progress,
) -> tuple[Quality, Fused]:
    """Measure a folder's graphs by the reference's; a fused one that is far, or fails, goes."""
    (folder, reference), reason = folders, written.reason
    spec = checkpoint.spec
    tokenizer = VocabularyTokenizer(folder / TOKENIZER, spec.vocab_size)
    start = checkpoint.document_start_token_id if checkpoint.adds_document_start else None
    chunks = affordable(quality_chunks(tokenizer, spec.context_length, start), spec.vocab_size)
    num_tokens = sum(map(len, chunks))
    candidates, fused = [scorer(folder / GRAPH, chunks)], folder / FUSED_GRAPH
    if not reason:
        sizes = GraphSizes(spec.vocab_size, spec.num_layers, spec.num_kv_heads, spec.head_dim)
        try:
            candidates.append(scorer.fused(fused, sizes, chunks))
        except KernelsError as error:
            reason = f"they could not be tried when it was converted ({error}); convert it again"
    own, *others = measure(
        scorer.reference(reference / GRAPH, chunks),
        candidates,
        lambda done: progress("measuring quality", done, num_tokens),
    )
    quality = others[0] if others else None
    if quality is not None and not quality.is_close:
        reason = f"with them it is too far from fp32 (KL {quality.kl:.4f}, at most {MAX_KL})"
    if reason:
        fused.unlink(missing_ok=True)
    return own, Fused(quality, reason)


def _manifest(
    checkpoint: Checkpoint,
    folder: Path,
    names: Mapping[str, Any],
    measured: tuple[Quality | None, Fused],
) -> Manifest:
    paths = [folder / name for name in FILES if (folder / name).exists()]
    files = {path.name: StoredFile(path.stat().st_size, file_digest(path)) for path in paths}
    return Manifest(
        **{name: getattr(checkpoint.spec, name) for name in ("family", *DESCRIBED_SIZES)},
        **{name: getattr(checkpoint, name) for name in ("licence", "source", *DESCRIBED_TOKENS)},
        **names,
        format=FORMAT,
        source_sha256=checkpoint.sha256,
        adapters=checkpoint.adapters,
        digest=folder_digest(files),
        quality=measured[0],
        fused=measured[1],
        files=files,
    )
