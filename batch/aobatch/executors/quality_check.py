"""How close a converted model is to full precision, measured again as conversion measured it."""

from collections.abc import Iterator

import numpy as np

from aobatch.arrays import TokenIds
from aobatch.errors import ModelError
from aobatch.models.convert.quality import affordable, chunks_of, measure, quality_text
from aobatch.models.spec import Progress
from aobatch.models.store.catalogue import find_card, models_home
from aobatch.models.store.folder import (
    GRAPH,
    INT8_CACHE_GRAPH,
    MAX_KL,
    ModelFolder,
    Quality,
    open_folder,
)
from aobatch.models.tokenizer import load_tokenizer
from aobatch.models.verification import Check
from aobatch.runners.scoring import score_texts

_NAMES = {GRAPH: "quality", INT8_CACHE_GRAPH: "quality, int8 cache"}
_NATS, _SHARE = 0.001, 0.1
"""How far a divergence may be from the recorded one, since processors round differently."""


def check_quality(folder: ModelFolder, progress: Progress) -> Iterator[Check]:
    """Compare the graphs of a model with fp32, where there is such a model of the same source."""
    manifest = folder.manifest
    try:
        reference = folder if manifest.precision == "fp32" else _reference(folder)
    except ModelError as error:
        yield Check("quality", "not checked", str(error), _advice(folder))
        return
    chunks = _chunks(folder)
    graphs = [GRAPH, INT8_CACHE_GRAPH] if manifest.int8_cache.digest else [GRAPH]
    if reference is folder:
        graphs, chunks = graphs[1:], chunks[1::2] or chunks
        yield Check("quality", "ok", "its own graph is the one of full precision")
    if not graphs:
        return
    chunks = affordable(chunks, manifest.vocab_size)
    num_tokens = sum(map(len, chunks))
    measured = measure(
        score_texts.reference(reference.path / GRAPH, chunks),
        [score_texts(folder.path / graph, chunks) for graph in graphs],
        lambda done: progress("measuring quality", done, num_tokens),
    )
    recorded = {GRAPH: manifest.quality, INT8_CACHE_GRAPH: manifest.int8_cache.quality}
    for graph, quality in zip(graphs, measured, strict=True):
        yield _compared(_NAMES[graph], quality, recorded[graph])


def _reference(folder: ModelFolder) -> ModelFolder:
    """Give the fp32 model of the same source; ModelError if it is not here."""
    name = f"{folder.manifest.name}-fp32"
    for path in (folder.path.with_name(name), models_home() / name):
        if path.is_dir():
            found = open_folder(path)
            source = folder.manifest.source_sha256
            if (found.manifest.precision, found.manifest.source_sha256) == ("fp32", source):
                return found
    message = f"{name}, the same model in full precision, is not here"
    raise ModelError(message)


def _advice(folder: ModelFolder) -> str:
    name = folder.manifest.name
    if find_card(name) is not None:
        return f"`aobatch models pull {name} --precision fp32` gets it"
    return f"`aobatch models import PATH {name}-fp32 --precision fp32` makes it of its source"


def _chunks(folder: ModelFolder) -> list[TokenIds]:
    """Cut the shipped text as conversion does."""
    manifest = folder.manifest
    start = np.array([manifest.document_start_token_id]) if manifest.adds_document_start else None
    tokens = load_tokenizer(folder).encode(quality_text())
    return chunks_of(tokens, manifest.context_length, start)


def _compared(name: str, found: Quality, recorded: Quality | None) -> Check:
    text = (
        f"KL {found.kl:.4f} nats a token from fp32 (at most {MAX_KL}), the same best token at "
        f"{found.top1_agreement:.1%} of {found.num_tokens:,}"
    )
    if not found.is_close:
        return Check(name, "failed", text, "convert or import the model again")
    expected = found if recorded is None else recorded
    if abs(found.kl - expected.kl) > _NATS + _SHARE * expected.kl:
        advice = "see `aobatch doctor`, and convert the model again"
        return Check(name, "failed", f"{text}; conversion measured {expected.kl:.4f}", advice)
    return Check(name, "ok", text)
