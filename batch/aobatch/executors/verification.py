"""Whether a model is what it was, runs, and is as close to full precision as it says."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec

from aobatch.errors import ModelError
from aobatch.executors.local import open_runner
from aobatch.files import file_digest
from aobatch.kernels import Kernels
from aobatch.models import Progress
from aobatch.models.checks.graph import check_decoder, check_fused
from aobatch.models.checks.tokenizer import check_tokenizer
from aobatch.models.convert.quality import affordable, measure, quality_chunks
from aobatch.models.foreign import open_export
from aobatch.models.store.catalogue import find, find_card, list_models, models_home, not_found
from aobatch.models.store.folder import (
    DATA,
    FILES,
    FUSED_GRAPH,
    GRAPH,
    MANIFEST,
    MAX_KL,
    TOKENIZER,
    ModelFolder,
    Quality,
    StoredFile,
    folder_digest,
    is_as_written,
    open_folder,
    read_folder,
)
from aobatch.models.store.locate import locate
from aobatch.models.tokenizer import load_tokenizer
from aobatch.runners import RunnerConfig
from aobatch.runners.choice import missing_operators
from aobatch.runners.scoring import score_texts, self_test
from aobatch.runners.session import first_line

_AGAIN = "convert or import the model again"
_NATS, _SHARE = 0.001, 0.1
"""How far a divergence may be from the recorded one, since processors round differently."""


State: TypeAlias = Literal["ok", "failed", "not checked"]


class Check(msgspec.Struct, frozen=True):
    """Something that was looked at."""

    name: str
    state: State
    found: str
    advice: str = ""
    """What to do if it failed, or so that it can be checked."""


class Verification(msgspec.Struct, frozen=True):
    """All that was looked at."""

    name: str
    path: str
    is_right: bool
    """Whether nothing failed; what could not be checked is no failure."""
    checks: list[Check]


def find_model(name: str) -> Path:
    """Give the folder of a model by name, alias or path, or a graph, whatever state it is in.

    ModelNotFoundError if there is none.
    """
    place = find(name)
    if place.kind is None or place.is_source:
        raise not_found(name, place, [row.name for row in list_models() if row.is_ready])
    return place.path.resolve() if place.kind == "model" else place.path


def verify(path: Path, progress: Progress) -> Verification:
    """Look at a model folder from its files to its quality; ModelError if it is none.

    Of an exported graph nobody knows what it was; whether it runs rightly can be seen.
    """
    if locate(path).kind != "model":
        folder: ModelFolder = open_export(path)
        found = "an export has no record of what it was, and nothing to be compared with"
        checks = [Check("files and quality", "not checked", found), _self_test(folder, "stock")]
    else:
        folder = read_folder(path)
        checks = [*_check_files(folder), _self_test(folder, "stock")]
        if not folder.manifest.fused.reason:
            checks.append(_self_test(folder, "fused"))
        if _is_right(checks):
            checks += _quality(folder, progress)
        else:
            found = "not measured, for something is wrong already"
            checks.append(Check("quality", "not checked", found, _AGAIN))
    return Verification(folder.manifest.name, str(folder.path), _is_right(checks), checks)


def _is_right(checks: list[Check]) -> bool:
    return all(check.state != "failed" for check in checks)


def _check_files(folder: ModelFolder) -> Iterator[Check]:
    """Look at the description, at each file and at the graphs; nothing is computed."""
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
    check_decoder(folder.graph, sizes)
    if folder.manifest.fused.reason:
        return f"operators, weights and sizes of {GRAPH} are in order"
    check_fused(folder.fused_graph, sizes)
    return f"operators, weights and sizes of {GRAPH} and {FUSED_GRAPH} are in order"


def _vocabulary(folder: ModelFolder) -> str:
    file = check_tokenizer(folder.tokenizer, folder.manifest.vocab_size)
    return f"{len(file.model.vocab):,} tokens and {len(file.added_tokens):,} added ones"


def _attempted(name: str, look: Callable[[], str]) -> Check:
    try:
        return Check(name, "ok", look())
    except ModelError as error:
        return Check(name, "failed", str(error))


def _self_test(folder: ModelFolder, kernels: Kernels) -> Check:
    name = "self-test" if kernels == "stock" else "self-test, fused"
    if kernels == "fused" and (lack := missing_operators()):
        return Check(name, "not checked", lack)
    try:
        runner = open_runner(folder, RunnerConfig(os.cpu_count() or 1, kernels))
        wrong, compared = self_test(runner)
    except ModelError as error:
        return Check(name, "failed", str(error))
    except Exception as error:  # noqa: BLE001 - the library raises half a dozen unrelated types
        return Check(name, "failed", f"it cannot be computed: {first_line(error)[:200]}", _AGAIN)
    if wrong:
        return Check(name, "failed", wrong, _AGAIN)
    return Check(name, "ok", f"alone as in a batch, to the bit: {compared}")


def _quality(folder: ModelFolder, progress: Progress) -> Iterator[Check]:
    """Compare the graphs of a model with fp32, where there is such a model of the same source."""
    manifest = folder.manifest
    recorded = {GRAPH: manifest.quality}
    if not (manifest.fused.reason or missing_operators()):
        recorded[FUSED_GRAPH] = manifest.fused.quality
    if manifest.precision == "fp32":
        yield Check("quality", "ok", "its own graph is the one of full precision")
        return
    try:
        reference = _reference(folder)
    except ModelError as error:
        yield Check("quality", "not checked", str(error), _way_to_reference(manifest.name))
        return
    start = manifest.document_start_token_id if manifest.adds_document_start else None
    chunks = quality_chunks(load_tokenizer(folder), manifest.context_length, start)
    num_weights = reference.manifest.files[DATA].bytes // 4  # as float32
    chunks = affordable(chunks, manifest.vocab_size, num_weights)
    num_tokens = sum(map(len, chunks))
    measured = measure(
        score_texts.unpacked(reference.path / GRAPH, chunks),
        [
            score_texts.fused(folder.fused_graph, manifest.graph_sizes, chunks)
            if graph == FUSED_GRAPH
            else score_texts(folder.graph, chunks)
            for graph in recorded
        ],
        lambda done: progress("measuring quality", done, num_tokens),
    )
    for graph, quality in zip(recorded, measured, strict=True):
        name = "quality" if graph == GRAPH else "quality, fused"
        yield _compared(name, quality, recorded[graph])


def _reference(folder: ModelFolder) -> ModelFolder:
    """Find the fp32 model of the same source; ModelError if it is not here."""
    name = f"{folder.manifest.name}-fp32"
    expected = ("fp32", folder.manifest.source_sha256)
    for path in (folder.path.with_name(name), models_home() / name):
        if path.is_dir():
            found = open_folder(path)
            if (found.manifest.precision, found.manifest.source_sha256) == expected:
                return found
    message = f"{name}, the same model in full precision, is not here"
    raise ModelError(message)


def _way_to_reference(name: str) -> str:
    if find_card(name) is not None:
        return f"`aobatch models pull {name} --precision fp32` gets it"
    return f"`aobatch models import PATH {name}-fp32 --precision fp32` makes it of its source"


def _compared(name: str, found: Quality, recorded: Quality | None) -> Check:
    text = (
        f"KL {found.kl:.4f} nats a token from fp32 (at most {MAX_KL}), the same best token at "
        f"{found.top1_agreement:.1%} of {found.num_tokens:,}"
    )
    if not found.is_close:
        return Check(name, "failed", text, _AGAIN)
    expected = found if recorded is None else recorded
    if abs(found.kl - expected.kl) > _NATS + _SHARE * expected.kl:
        advice = "see `aobatch doctor`, and convert the model again"
        return Check(name, "failed", f"{text}; conversion measured {expected.kl:.4f}", advice)
    return Check(name, "ok", text)
