"""A checkpoint into a model folder: graph, tokenizer, description, and the quality gate."""

import hashlib
import shutil
import tempfile
from pathlib import Path

import onnx_ir as ir

from aobatch.errors import ModelError
from aobatch.models import precision as precisions
from aobatch.models.folder import ModelFolder, open_folder
from aobatch.models.graph import DecoderGraph
from aobatch.models.manifest import FORMAT, Manifest, Quality, write_manifest
from aobatch.models.progress import Progress
from aobatch.models.quality import MAX_KL, Scorer, chunks_of, measure, quality_text
from aobatch.models.spec import Checkpoint
from aobatch.models.tokenizer import VocabularyTokenizer

GRAPH, TOKENIZER, MANIFEST = "model.onnx", "tokenizer.json", "model.toml"


def convert(
    checkpoint: Checkpoint,
    target: Path,
    *,
    precision: str,
    scorer: Scorer,
    progress: Progress,
) -> ModelFolder:
    """Write a model folder at target, in one piece: it appears when all is done, or not at all.

    A precision other than fp32 is measured against fp32 by `scorer`. Raises ModelError if it is
    further away than the gate allows.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as name:
        work = Path(name)
        folder = work / "model"
        _write_graph(checkpoint, folder, precision, progress)
        quality = None
        if precision != "fp32":
            reference = work / "reference"
            _write_graph(checkpoint, reference, "fp32", progress)
            quality = _gate(folder, reference, scorer, progress)
        write_manifest(
            folder / MANIFEST, _manifest(checkpoint, folder, target.name, precision, quality)
        )
        shutil.rmtree(target, ignore_errors=True)
        folder.rename(target)
    return open_folder(target)


def _write_graph(checkpoint: Checkpoint, folder: Path, precision: str, progress: Progress) -> None:
    folder.mkdir()
    (folder / TOKENIZER).write_bytes(checkpoint.tokenizer_json)
    graph = DecoderGraph(checkpoint, precisions.find(precision))
    model = graph.build(lambda done, total: progress(f"converting to {precision}", done, total))
    ir.save(model, folder / GRAPH, external_data=f"{GRAPH}.data")


def _gate(folder: Path, reference: Path, scorer: Scorer, progress: Progress) -> Quality:
    token_ids = VocabularyTokenizer(folder / TOKENIZER).encode(quality_text())
    chunks = chunks_of(token_ids)
    quality = measure(
        scorer(reference / GRAPH, chunks),
        scorer(folder / GRAPH, chunks),
        lambda done: progress("measuring quality", done, len(chunks)),
    )
    if quality.kl > MAX_KL:
        message = (
            f"the converted model is too far from fp32 (KL {quality.kl:.4f}, at most {MAX_KL}); "
            "use --precision fp32"
        )
        raise ModelError(message)
    return quality


def _manifest(
    checkpoint: Checkpoint, folder: Path, name: str, precision: str, quality: Quality | None
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
        quality=quality,
    )


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (GRAPH, f"{GRAPH}.data", TOKENIZER):
        with (folder / name).open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
