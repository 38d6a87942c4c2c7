"""Whether a model is what it was, runs, and is as close to full precision as it says."""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from aobatch.errors import ModelError
from aobatch.executors.local import open_runner
from aobatch.models import Progress
from aobatch.models.convert.quality import affordable, measure, quality_chunks
from aobatch.models.foreign import open_export
from aobatch.models.store.catalogue import find_card, models_home
from aobatch.models.store.folder import (
    GRAPH,
    INT8_CACHE_GRAPH,
    MAX_KL,
    CacheDtype,
    ModelFolder,
    Quality,
    open_folder,
    read_folder,
)
from aobatch.models.store.locate import locate
from aobatch.models.tokenizer import load_tokenizer
from aobatch.models.verification import Check, check_files
from aobatch.runners import RunnerConfig
from aobatch.runners.scoring import score_texts, self_test
from aobatch.runners.session import first_line

_AGAIN = "convert or import the model again"
_NATS, _SHARE = 0.001, 0.1
"""How far a divergence may be from the recorded one, since processors round differently."""


class Verification(msgspec.Struct, frozen=True):
    """All that was looked at."""

    name: str
    path: str
    is_right: bool
    """Whether nothing failed; what could not be checked is no failure."""
    checks: list[Check]


def verify(path: Path, progress: Progress) -> Verification:
    """Look at a model folder from its files to its quality; ModelError if it is none.

    Of an exported graph nobody knows what it was; whether it runs rightly can be seen.
    """
    if locate(path).kind != "model":
        folder: ModelFolder = open_export(path)
        found = "an export has no record of what it was, and nothing to be compared with"
        checks = [Check("files and quality", "not checked", found), _self_test(folder, "fp32")]
    else:
        folder = read_folder(path)
        checks = [*check_files(path), _self_test(folder, "fp32")]
        if folder.manifest.int8_cache.digest:
            checks.append(_self_test(folder, "int8"))
        if _is_right(checks):
            checks += _quality(folder, progress)
        else:
            found = "not measured, for something is wrong already"
            checks.append(Check("quality", "not checked", found, _AGAIN))
    return Verification(folder.manifest.name, str(folder.path), _is_right(checks), checks)


def _is_right(checks: list[Check]) -> bool:
    return all(check.state != "failed" for check in checks)


def _self_test(folder: ModelFolder, cache: CacheDtype) -> Check:
    name = "self-test" if cache == "fp32" else "self-test, int8 cache"
    try:
        runner = open_runner(folder, RunnerConfig(os.cpu_count() or 1, cache))
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
    if manifest.int8_cache.digest:
        recorded[INT8_CACHE_GRAPH] = manifest.int8_cache.quality
    if manifest.precision == "fp32":
        reference = folder
        del recorded[GRAPH]
        yield Check("quality", "ok", "its own graph is the one of full precision")
    else:
        try:
            reference = _reference(folder)
        except ModelError as error:
            yield Check("quality", "not checked", str(error), _way_to_reference(manifest.name))
            return
    if not recorded:
        return
    start = manifest.document_start_token_id if manifest.adds_document_start else None
    chunks = quality_chunks(load_tokenizer(folder), manifest.context_length, start)
    if reference is folder:  # conversion has set the scales of its cache by the others
        chunks = chunks[1::2] or chunks
    chunks = affordable(chunks, manifest.vocab_size)
    num_tokens = sum(map(len, chunks))
    measured = measure(
        score_texts.reference(reference.path / GRAPH, chunks),
        [score_texts(folder.path / graph, chunks) for graph in recorded],
        lambda done: progress("measuring quality", done, num_tokens),
    )
    for graph, quality in zip(recorded, measured, strict=True):
        name = "quality" if graph == GRAPH else "quality, int8 cache"
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
