"""Prompts into slots: several short ones in one run, long ones in chunks, shared ones once."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from aobatch.api import errors
from aobatch.arrays import Logits, TokenIds
from aobatch.engine.sequence import Sequence, SequenceGroup
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import Chunk, ModelRunner
from aobatch.sampling.blocks import BlocksOf
from aobatch.sampling.logprobs import Scores, score

CHUNK = 256
"""Tokens that a prompt takes in at once."""
MAX_RUN_TOKENS = 1024
MAX_RUN_LOGITS = 256
MIN_SHARED = 32
"""Fewer tokens are computed sooner than copied and waited for."""


class Source(NamedTuple):
    """Where the first tokens of a prompt can be had."""

    group: SequenceGroup
    slot: int


def family(prompt: TokenIds) -> bytes | None:
    """Name the beginning that prompts must have in common to share it; None if it is too short."""
    return prompt[:MIN_SHARED].tobytes() if len(prompt) >= MIN_SHARED + 2 else None


def shared_length(group: SequenceGroup, other: SequenceGroup, least: int) -> int:
    """Count the first tokens of a prompt that another one saves it, 0 where it is not worth it.

    So many are left at least: the last one's logits are wanted, and a single token may take another
    attention kernel. Where the prompt's logprobs are asked for, what the other one has of them is
    used, and the last shared token is computed again, since another token follows it.
    """
    prompt, rival = group.prompt_token_ids, other.prompt_token_ids
    size = min(len(prompt), len(rival))
    differing = np.flatnonzero(prompt[:size] != rival[:size])
    length = int(differing[0]) if differing.size else size
    if group.scores_prompt:
        has_scores = other.scores_prompt and other.params.num_logprobs == group.params.num_logprobs
        length = length - 1 if has_scores else 0
    length = min(length, len(prompt) - least)
    return length if length >= MIN_SHARED else 0


class HeldPrompts:
    """Which prompt each slot holds, also after its sequence has ended."""

    def __init__(self) -> None:
        self._groups: dict[int, SequenceGroup] = {}
        """By slot, in the order in which slots took them."""

    def put(self, slot: int, group: SequenceGroup) -> None:
        """Note that a slot now holds the prompt of a group."""
        self.forget(slot)
        self._groups[slot] = group

    def forget(self, slot: int) -> None:
        """Note that what a slot held is overwritten."""
        self._groups.pop(slot, None)

    def move(self, source: int, target: int) -> None:
        """Note that slot target now holds what slot source does."""
        self.forget(target)
        if source in self._groups:
            self.put(target, self._groups[source])

    def keep(self, num_slots: int) -> None:
        """Note that only the first slots still hold anything."""
        self._groups = {slot: group for slot, group in self._groups.items() if slot < num_slots}

    def find(self, group: SequenceGroup) -> Source | None:
        """Find the slot that last took a prompt of the same family."""
        name = family(group.prompt_token_ids)
        for slot, held in reversed(self._groups.items()) if name else ():
            if family(held.prompt_token_ids) == name:
                return Source(held, slot)
        return None


def chunk_ends(length: int, start: int = 0, least: int = 2) -> list[int]:
    """Cut what follows the first `start` tokens of a prompt into chunks; give where they end.

    A chunk of one token behind others takes another attention kernel of ONNX Runtime, which differs
    in the last bit. Where two are the least, a neighbour gives it a second token.
    """
    ends = [*range(CHUNK, length, CHUNK), length]
    if length > CHUNK and 0 < length % CHUNK < least:
        ends[-2] -= 1
    return [end for end in ends if end >= start + least or end == length]


@dataclass(slots=True, eq=False)
class Placement:
    """One prompt on its way into a slot."""

    group: SequenceGroup
    start: int = 0
    """Tokens that are copied and not computed."""
    least: int = 2
    """Tokens of the smallest chunk behind others."""
    held: Source | None = None
    """The slot they come from, if it was filled earlier."""
    neighbour: "Placement | None" = None
    """The placement of the same batch they come from."""
    stage: int = 0
    """Placements of a stage are computed together, after all earlier stages."""
    slot: int = -1
    scores: list[Scores] = field(default_factory=list)
    """Of each chunk's tokens, where the prompt's logprobs are asked for."""
    last_logits: Logits | None = None
    """Scores behind the prompt, [V]."""

    @property
    def ends(self) -> list[int]:
        """Where the chunks end that are to be computed."""
        return chunk_ends(len(self.group.prompt_token_ids), self.start, self.least)


def place(
    groups: list[SequenceGroup], held: HeldPrompts | None, first_slot: int, least: int
) -> list[Placement]:
    """Assign slots from first_slot on to groups; without `held` none shares.

    Chunks behind others have `least` tokens or more.

    The order is that of the groups; a placement's neighbour comes before it. Slots rise by stage,
    and within a stage fall by work, so that what is computed together lies together.
    """
    targets = range(first_slot, first_slot + len(groups))
    placements: list[Placement] = []
    for group in groups:
        placement = Placement(group, least=least)
        if held is not None:
            found = held.find(group)
            # One overwritten source can be copied ahead of all else; two might overwrite another.
            if (
                found
                and found.slot in targets
                and any(earlier.held and earlier.held.slot in targets for earlier in placements)
            ):
                found = None
            _share(placement, placements[-1] if placements else None, found)
        placements.append(placement)
    for slot, placement in zip(targets, by_stage(placements), strict=True):
        placement.slot = slot
    return placements


def by_stage(placements: list[Placement]) -> list[Placement]:
    """Order placements by stage, those with the most chunks and tokens first."""

    def rank(placement: Placement) -> tuple[int, int, int]:
        num_tokens = len(placement.group.prompt_token_ids) - placement.start
        return placement.stage, -len(placement.ends), -num_tokens

    return sorted(placements, key=rank)


def _share(placement: Placement, neighbour: Placement | None, held: Source | None) -> None:
    """Choose the source that saves the most."""
    group, least = placement.group, placement.least
    near = shared_length(group, neighbour.group, least) if neighbour else 0
    far = shared_length(group, held.group, least) if held else 0
    if far and far >= near:
        placement.start, placement.held = far, held
    elif near and neighbour:
        placement.start, placement.neighbour = near, neighbour
        # What the neighbour copies is there when its stage begins, the rest when it has ended.
        placement.stage = neighbour.stage + (near > neighbour.start)


def prefill(
    runner: ModelRunner, placements: list[Placement], capacity: int, blocks_of: BlocksOf
) -> None:
    """Compute prompts into the slots of their placements, which have room for `capacity` tokens.

    Sets every placement's last_logits, and its scores where they are asked for.
    """
    targets = {placement.slot for placement in placements}
    sources = [(p, p.held) for p in placements if p.held]
    # A source that will be overwritten is copied first; there is one at most.
    for placement, held in sorted(sources, key=lambda pair: pair[1].slot not in targets):
        _copy(runner, placement, held.slot, held.group.prompt_scores)
    for stage, members in groupby(by_stage(placements), key=lambda p: p.stage):
        for placement in placements:
            if placement.neighbour and placement.stage == stage:
                near = placement.neighbour
                _copy(runner, placement, near.slot, near.scores)
        _compute(runner, list(members), capacity, blocks_of)
    for placement in placements:
        if any(np.isnan(chunk.logprobs).any() for chunk in placement.scores):
            placement.group.state.error = errors.numerical_error()


def score_suffix(
    runner: ModelRunner, slot: int, sequence: Sequence, tokenizer: Tokenizer, blocks_of: BlocksOf
) -> None:
    """Set the mean logprob of the suffix behind a finished candidate, computed in a free slot."""
    group, watcher, middle = sequence.group, sequence.watcher, sequence.text_token_ids
    if watcher is not None and watcher.cut is not None:
        # The text's own tokens where a stop cut it; a slot has room for max_tokens of them.
        middle = tokenizer.encode(watcher.text[: watcher.cut])[: group.max_tokens]
    token_ids = np.concatenate([group.prompt_token_ids, middle, group.suffix_token_ids])
    first = len(token_ids) - len(group.suffix_token_ids)
    start, logprobs = 0, []
    for end in chunk_ends(len(token_ids), 0, runner.min_chunk):
        num_logits = max(0, end - max(start, first - 1))
        logits = runner.prefill([Chunk(slot, start, token_ids[start:end], num_logits)])
        targets = token_ids[end - num_logits + 1 : end + 1]
        if len(targets):
            none = np.zeros(len(targets), np.int64)
            logprobs.append(_scores(logits[: len(targets)], targets, none, blocks_of).logprobs)
        start = end
    sequence.suffix_logprob = float(np.concatenate(logprobs).mean())
    if np.isnan(sequence.suffix_logprob):
        group.state.error = errors.numerical_error()


def _copy(runner: ModelRunner, placement: Placement, slot: int, scores: list[Scores]) -> None:
    """Take the first tokens from another slot, and the scores of those that follow them."""
    if slot != placement.slot:
        runner.copy(slot, placement.slot, placement.start)
    left = placement.start if placement.group.scores_prompt else 0
    for chunk in scores:
        if left > 0:
            placement.scores.append(Scores._make(array[:left] for array in chunk))
            left -= len(chunk.logprobs)


def _compute(
    runner: ModelRunner, placements: list[Placement], capacity: int, blocks_of: BlocksOf
) -> None:
    for run in _runs(placements, capacity):
        logits = runner.prefill([chunk for _, chunk in run])
        stop = 0
        for placement, chunk in run:
            start, stop = stop, stop + chunk.num_logits
            _keep(placement, chunk, logits[start:stop], blocks_of)


def _runs(placements: list[Placement], capacity: int) -> Iterator[list[tuple[Placement, Chunk]]]:
    """Yield runs over neighbouring slots: all first chunks, then all second ones."""
    for index in range(len(placements[0].ends)):
        run: list[tuple[Placement, Chunk]] = []
        for placement in placements:
            if index >= len(placement.ends):
                break  # placements are sorted, so all further ones are done too
            chunk = _chunk(placement, index)
            if run and not _fits([*(c for _, c in run), chunk], capacity):
                yield run
                run = []
            run.append((placement, chunk))
        yield run


def _chunk(placement: Placement, index: int) -> Chunk:
    ends, group = placement.ends, placement.group
    start, end = ends[index - 1] if index else placement.start, ends[index]
    num_logits = end - start if group.scores_prompt else int(end == ends[-1])
    return Chunk(placement.slot, start, group.prompt_token_ids[start:end], num_logits)


def _fits(chunks: list[Chunk], capacity: int) -> bool:
    """Say whether a run stays within memory, each row with room for the longest row's chunk."""
    sizes = [len(chunk.token_ids) for chunk in chunks]
    has_room = max(chunk.start for chunk in chunks) + max(sizes) <= capacity
    num_logits = sum(chunk.num_logits for chunk in chunks)
    return has_room and sum(sizes) <= MAX_RUN_TOKENS and num_logits <= MAX_RUN_LOGITS


def _keep(placement: Placement, chunk: Chunk, logits: Logits, blocks_of: BlocksOf) -> None:
    """Copy what is still needed of a chunk's logits [R, V]; the runner will overwrite them."""
    group = placement.group
    prompt, end = group.prompt_token_ids, chunk.start + len(chunk.token_ids)
    if group.scores_prompt:
        targets = prompt[chunk.start + 1 : end + 1]
        asked = np.full(len(targets), group.params.num_logprobs or 0)
        placement.scores.append(_scores(logits[: len(targets)], targets, asked, blocks_of))
    if end == len(prompt):
        placement.last_logits = logits[-1].copy()


def _scores(logits: Logits, targets: TokenIds, asked: TokenIds, blocks_of: BlocksOf) -> Scores:
    """Score targets under logits [n, V], which are changed; NaN under rows without numbers."""
    is_broken = ~np.isfinite(logits.max(axis=1))
    logits[is_broken] = 0
    scores = score(blocks_of(logits, None), targets, asked)
    scores.logprobs[is_broken] = np.nan
    return scores
