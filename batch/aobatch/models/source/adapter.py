"""Adapters: what fine-tuning adds to a base, merged in float32 into each weight when it is read.

LoRA (Hu et al. 2021) adds scale * up @ down to a matrix; DoRA (Liu et al. 2024) then gives each row
of the sum a length of its own; what was trained whole takes a weight's place.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from aobatch.errors import ModelError
from aobatch.files import file_digest, joined_digest
from aobatch.models import MergedAdapter
from aobatch.models.checks import printable, shown
from aobatch.models.source.adapter_files import Adapter, Change, Rows, read_adapter
from aobatch.models.source.decoder import (
    Naming,
    Shape,
    StoredRows,
    arranged_heads,
    decoder_shapes,
    gguf_naming,
    load_rows,
    places,
    tensor_shapes,
    with_own_heads,
)
from aobatch.models.source.families import find
from aobatch.models.source.gguf_families import GgufFamily
from aobatch.models.spec import Checkpoint, DecoderSpec, Weight, WeightLoader

_ALIKE = ({"llama", "mistral"}, {"olmo2", "olmo3"})
"""Families that GGUF files do not tell apart."""


def merge_adapter(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """Give a checkpoint whose weights are those of a base with an adapter merged into them.

    They are read and merged one at a time. ModelError if the adapter is none that can be merged
    exactly, or is none of this base.
    """
    adapter = read_adapter(path)
    spec, family = checkpoint.spec, find(checkpoint.spec.family, str(path))
    naming, pairs, offset = family.naming, family.pairs_neighbours, family.gain_offset
    if known := adapter.known:
        naming, pairs, offset = _gguf_naming(adapter, known, spec), known.pairs_neighbours, 0.0
    stored = with_own_heads(spec)
    rows = places(stored, naming)
    shapes = tensor_shapes(stored, naming) | _expert_shapes(stored, naming)
    _check_changes(adapter, shapes, checkpoint.source)
    # A table that changes in one of its two roles is two tables from then on.
    tables = [rows[name].tensor for name in ("embedding", "head")]
    is_tied = spec.is_tied and not {*tables} & {*adapter.changes}
    changes = _with_tied_tokens(adapter.changes, *tables) if spec.is_tied else adapter.changes
    digest = joined_digest([file_digest(file) for file in adapter.files])
    merged = MergedAdapter(printable(path.resolve().name), digest)
    return replace(
        checkpoint,
        spec=replace(spec, is_tied=is_tied),
        load=_loader(checkpoint, changes, rows, naming, pairs_neighbours=pairs, gain_offset=offset),
        files=(*checkpoint.files, *adapter.files),
        adapters=(*checkpoint.adapters, merged),
        warnings=(*checkpoint.warnings, *_warnings(adapter, checkpoint)),
    )


def _expert_shapes(spec: DecoderSpec, naming: Naming) -> dict[str, Shape]:
    """Give the shapes of the tensors of experts each of which has its own."""
    found: dict[str, Shape] = {}
    for name, shape in decoder_shapes(spec).items():
        if own := _own_experts(naming, name):
            found |= {own.format(expert): shape[1:] for expert in range(shape[0])}
    return found


def _own_experts(naming: Naming, name: str) -> str:
    """Name the tensors of experts, with {} for their numbers; empty if they share one."""
    found = naming.expert_part(name)
    stored = f"{found[0]}{found[1].stored}" if found else ""
    return stored if "{}" in stored else ""


def _with_tied_tokens(changes: Mapping[str, Change], table: str, head: str) -> Mapping[str, Change]:
    """Change trained tokens in the head too, as it is done in training unless it has its own."""
    change = changes.get(table)
    if change is None or not change.token_ids or head in changes:
        return changes
    return {**changes, head: Change(tokens=change.tokens, token_ids=change.token_ids)}


def _loader(
    checkpoint: Checkpoint,
    changes: Mapping[str, Change],
    rows: Mapping[str, StoredRows],
    naming: Naming,
    *,
    pairs_neighbours: bool,
    gain_offset: float,
) -> WeightLoader:
    def load(name: str, start: int = 0, stop: int | None = None) -> Weight:
        weight, place = checkpoint.load(name, start, stop), rows.get(name)
        if stored := _own_experts(naming, name):
            return _merged_experts(weight, changes, stored, start)
        change = changes.get(place.tensor) if place else None
        if place is None or change is None:
            return weight

        def part(read: Rows) -> Weight:
            taken = load_rows(place, lambda _, first, last: read(first, last), start, stop)
            return arranged_heads(taken, name, checkpoint.spec, pairs_neighbours=pairs_neighbours)

        merged = _merged(weight, change, part, gain_offset if name.endswith("norm") else 0.0)
        return _with_tokens(merged, change, start) if change.token_ids else merged

    return load


def _merged_experts(
    weight: Weight, changes: Mapping[str, Change], stored: str, start: int
) -> Weight:
    """Change each expert of a weight [experts, out, in] that begins with number `start`."""
    changed = [changes.get(stored.format(start + index)) for index in range(len(weight))]
    if not any(changed):
        return weight
    own = zip(weight, changed, strict=True)
    return np.stack(
        [_merged(x, change, lambda read: read(0, None), 0.0) if change else x for x, change in own]
    )


def _merged(
    weight: Weight, change: Change, part: Callable[[Rows], Weight], offset: float
) -> Weight:
    """Change a weight as far as it was loaded; `part` takes as much of what is stored."""
    whole, up, down, lengths = change.whole, change.up, change.down, change.lengths
    if whole:
        weight = part(lambda a, b: whole.rows(a, b) + np.float32(offset))
    if up and down:
        weight = weight + part(lambda a, b: up.rows(a, b) @ down.rows(0, None)) * change.scale
    elif up:
        weight = weight + part(up.rows) * change.scale
    if lengths:
        found = np.maximum(np.linalg.norm(weight, axis=1), np.finfo(np.float32).tiny)
        weight = weight * (part(lengths.rows) / found)[:, None]
    return weight.astype(np.float32, copy=False)


def _with_tokens(weight: Weight, change: Change, start: int) -> Weight:
    """Put trained tokens into rows of a table that begin with row `start`."""
    weight = weight.copy()
    for row, token_id in enumerate(change.token_ids):
        if change.tokens and start <= token_id < start + len(weight):
            weight[token_id - start] = change.tokens.rows(row, row + 1)[0]
    return weight


def _check_changes(adapter: Adapter, shapes: Mapping[str, Shape], base: str) -> None:
    """Raise ModelError for the first change that is for no weight, or for one of another shape."""
    if not adapter.changes:
        message = f"{adapter.path} changes no weight; it is no adapter, or an unfinished one"
        raise ModelError(message)
    for name, change in adapter.changes.items():
        if name not in shapes:
            message = (
                f"{adapter.path} changes {shown(name)}, and no weight of {base} is called so; it "
                "is an adapter of another model, or of parts that are not read here"
            )
            raise ModelError(message)
        wanted = shapes[name]
        wrong = [shape for shape in change.shapes if shape != wanted]
        if change.lengths and change.lengths.shape != wanted[:1]:
            wrong.append(change.lengths.shape)
        if change.tokens and change.tokens.shape != (len(change.token_ids), *wanted[1:]):
            wrong.append(change.tokens.shape)
        if change.token_ids and max(change.token_ids) >= wanted[0]:
            wrong.append((max(change.token_ids) + 1, *wanted[1:]))
        if wrong:
            message = (
                f"{adapter.path} changes {shown(name)} as one of shape {wrong[0]}, and in {base} "
                f"it has {wanted}; it is an adapter of another model, or adds tokens, and then has "
                "to be merged where it was trained"
            )
            raise ModelError(message)
        if change.up and change.down and change.up.shape[1:] != change.down.shape[:1]:
            message = f"{adapter.path}: the two parts for {shown(name)} have different ranks"
            raise ModelError(message)


def _gguf_naming(adapter: Adapter, known: GgufFamily, spec: DecoderSpec) -> Naming:
    """Say how a GGUF file names the weights of a base; ModelError if it is for another family."""
    if known.name != spec.family and {known.name, spec.family} not in _ALIKE:
        message = f"{adapter.path} is an adapter for {known.name}, and the base is {spec.family}"
        raise ModelError(message)
    fused: dict[str, tuple[str, ...]] = {}
    for stored, change in adapter.changes.items():
        if ".attn_qkv." in stored:
            fused["attn_qkv"] = ("q", "k", "v")
        if spec.is_gated and ".ffn_up." in stored:
            has_gate = any(shape[0] == 2 * spec.intermediate_size for shape in change.shapes)
            fused |= {"ffn_up": ("gate", "up")} if has_gate else {}
    return gguf_naming(known.stems, fused)


def _plain(name: str) -> str:
    """Give what two names of one model have in common: letters and digits behind the owner."""
    return re.sub(r"[^a-z0-9]", "", name.rstrip("/").rpartition("/")[2].lower())


def _warnings(adapter: Adapter, checkpoint: Checkpoint) -> tuple[str, ...]:
    base, given = _plain(adapter.base), _plain(checkpoint.source.removesuffix(".gguf"))
    if not base or base in given or given in base:
        return ()
    return (
        f"the adapter {printable(adapter.path.resolve().name)} says that it was trained on "
        f"{printable(adapter.base)}, and is merged into {checkpoint.source}",
    )
