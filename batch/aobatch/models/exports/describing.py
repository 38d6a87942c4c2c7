"""An exported folder read through once: its graph, its facts, and the digest of all its files."""

import hashlib
from pathlib import Path

from aobatch.errors import ModelError
from aobatch.files import file_digest
from aobatch.models.checks.files import POINTER, POINTER_ADVICE, open_regular
from aobatch.models.checks.links import own_file
from aobatch.models.exports.choice import GENAI_CONFIG, TOKENIZER
from aobatch.models.exports.facts import Facts, read_facts
from aobatch.models.exports.layout import Layout
from aobatch.models.exports.memory import Description, stamp
from aobatch.models.exports.reading import read_export
from aobatch.models.exports.unsupported import unusable
from aobatch.models.importers.tokenizer_file import read_tokenizer
from aobatch.models.manifest import FORMAT, Int8Cache, Manifest, Quality

_CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json", GENAI_CONFIG)
_NO_INT8_CACHE = Int8Cache(Quality(kl=0.0, top1_agreement=0.0, num_tokens=0), digest="")


def describe(folder: Path, graph: Path) -> Description:
    """Check an export and give all that is to be known of it.

    Raises ModelError if it cannot run here.
    """
    if not (folder / TOKENIZER).exists():
        raise unusable(folder, f"it has no {TOKENIZER}, which says how the model splits text")
    before = stamp(graph)
    _check_content(graph)
    facts = read_facts(folder)
    layout, data_names = read_export(graph, facts.hints)
    data = [graph.with_name(name) for name in data_names]
    files = [graph, *data, folder / TOKENIZER, *(folder / name for name in _CONFIGS)]
    stamps = {str(path): stamp(path) for path in files}
    digest = _digest([path for path in files if stamps[str(path)]])
    if any(stamp(Path(name)) != known for name, known in ((str(graph), before), *stamps.items())):
        raise unusable(folder, "its files change while they are read; run again when they are done")
    return Description(
        folder=str(folder),
        graph=str(graph),
        data_names=data_names,
        stamps=stamps,
        hints=facts.hints,
        manifest=_manifest(folder, graph, layout, facts, digest),
    )


def _check_content(graph: Path) -> None:
    """Raise ModelError if a graph, or a file that looks like its weights, is only a pointer."""
    for path in (graph, *sorted(graph.parent.glob(f"{graph.name}[._]data*"))):
        with open_regular(own_file(path)) as (file, _):
            if file.read(len(POINTER)) == POINTER:
                message = f"{path} {POINTER_ADVICE}"
                raise ModelError(message)


def _manifest(folder: Path, graph: Path, layout: Layout, facts: Facts, digest: str) -> Manifest:
    _, tokens = read_tokenizer(folder, facts.tokens, layout.vocab_size)
    num_heads = facts.num_heads or layout.num_kv_heads
    return Manifest(
        format=FORMAT,
        name=_name(folder),
        family="export-gqa" if layout.shares_buffers else "export",
        precision=layout.precision,
        licence="unknown",
        source=str(graph.relative_to(folder)),
        source_sha256="",
        vocab_size=layout.vocab_size,
        hidden_size=facts.hidden_size or num_heads * layout.head_dim,
        num_layers=len({cache.layer for cache in layout.caches}),
        num_heads=num_heads,
        num_kv_heads=layout.num_kv_heads,
        head_dim=layout.head_dim,
        context_length=facts.context_length,
        eos_token_ids=tokens.end,
        document_start_token_id=tokens.document_start,
        adds_document_start=tokens.adds_document_start,
        infill_token_ids=tokens.infill,
        digest=digest,
        int8_cache=_NO_INT8_CACHE,
    )


def _name(folder: Path) -> str:
    """Name a folder; in a hub's cache that is the model's name, not the revision."""
    cache = folder.parent.parent.name
    is_cached = folder.parent.name == "snapshots" and cache.startswith("models--")
    return cache.removeprefix("models--").replace("--", "/") if is_cached else folder.name


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = own_file(path)
        with open_regular(content):  # nothing that would wait, or lead elsewhere
            digest.update(path.name.encode() + bytes.fromhex(file_digest(content)))
    return digest.hexdigest()
