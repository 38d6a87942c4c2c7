"""Prompts into slots: several short ones in one run, long ones in chunks, shared ones once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

import numpy as np

from aobatch.api import errors
from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.engine.sequence import SequenceGroup
from aobatch.runners import Chunk, ModelRunner
from aobatch.sampling.logprobs import Scores, score

MIN_SHARED = 32
"""Fewer tokens are computed sooner than copied and waited for."""


class Source(NamedTuple):
    """Where the first tokens of a prompt can be had."""

    group: SequenceGroup
    slot: int


def family(prompt: TokenIds) -> bytes | None:
    """Name the beginning that prompts must have in common to share it; None if it is too short."""
    return prompt[:MIN_SHARED].tobytes() if len(prompt) >= MIN_SHARED + 2 else None


def shared_length(group: SequenceGroup, other: SequenceGroup) -> int:
    """Count the first tokens of a prompt that another one saves it, 0 where it is not worth it.

    Two are left at least: the last one's logits are wanted, and a single token takes another
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
    length = min(length, len(prompt) - 2)
    return length if length >= MIN_SHARED else 0


class HeldPrompts:
    """Which prompt each slot holds, also after its sequence has ended."""

    def __init__(self) -> None:
        self._groups: dict[int, SequenceGroup] = {}
        self._latest: dict[bytes, int] = {}

    def put(self, slot: int, group: SequenceGroup) -> None:
        """Note that a slot now holds the prompt of a group."""
        self.forget(slot)
        if name := family(group.prompt_token_ids):
            self._groups[slot] = group
            self._latest[name] = slot

    def forget(self, slot: int) -> None:
        """Note that what a slot held is overwritten."""
        group = self._groups.pop(slot, None)
        name = None if group is None else family(group.prompt_token_ids)
        if name is not None and self._latest.get(name) == slot:
            del self._latest[name]

    def move(self, source: int, target: int) -> None:
        """Note that slot target now holds what slot source does."""
        group = self._groups.get(source)
        self.forget(target)
        if group is not None:
            self.put(target, group)

    def keep(self, num_slots: int) -> None:
        """Note that only the first slots still hold anything."""
        for slot in [slot for slot in self._groups if slot >= num_slots]:
            self.forget(slot)

    def find(self, group: SequenceGroup) -> Source | None:
        """Find the slot that last took a prompt of the same family."""
        name = family(group.prompt_token_ids)
        slot = None if name is None else self._latest.get(name)
        return None if slot is None else Source(self._groups[slot], slot)


CHUNK = 256
"""Tokens that a prompt takes in at once."""


def chunk_ends(length: int, start: int = 0) -> list[int]:
    """Cut what follows the first `start` tokens of a prompt into chunks; give where they end.

    A chunk of one token behind others would take another attention kernel, which differs in the
    last bit, so a neighbour gives it a second token.
    """
    ends = [*range(CHUNK, length, CHUNK), length]
    if length > CHUNK and length % CHUNK == 1:
        ends[-2] -= 1
    return [end for end in ends if end > start + 1 or end == length]


@dataclass(slots=True, eq=False)
class Placement:
    """One prompt on its way into a slot."""

    group: SequenceGroup
    start: int = 0
    """Tokens that are copied and not computed."""
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
        return chunk_ends(len(self.group.prompt_token_ids), self.start)


def place(
    groups: Sequence[SequenceGroup], held: HeldPrompts | None, first_slot: int
) -> list[Placement]:
    """Give groups slots from first_slot on; without `held` none shares.

    The order is that of the groups; a placement's neighbour comes before it. Slots rise by stage,
    and within a stage fall by work, so that what is computed together lies together.
    """
    targets = range(first_slot, first_slot + len(groups))
    placements: list[Placement] = []
    for group in groups:
        placement = Placement(group)
        if held is not None:
            found = held.find(group)
            # One overwritten source can be copied ahead of all else; two might overwrite another.
            if found and found.slot in targets and _uses_any(placements, targets):
                found = None
            _share(placement, placements[-1] if placements else None, found)
        placements.append(placement)
    for slot, placement in zip(targets, by_stage(placements), strict=True):
        placement.slot = slot
    return placements


def by_stage(placements: Sequence[Placement]) -> list[Placement]:
    """Order placements by stage, those with the most chunks and tokens first."""

    def rank(placement: Placement) -> tuple[int, int, int]:
        num_tokens = len(placement.group.prompt_token_ids) - placement.start
        return placement.stage, -len(placement.ends), -num_tokens

    return sorted(placements, key=rank)


def _uses_any(placements: Sequence[Placement], slots: range) -> bool:
    return any(placement.held and placement.held.slot in slots for placement in placements)


def _share(placement: Placement, neighbour: Placement | None, held: Source | None) -> None:
    """Choose the source that saves the most."""
    near = shared_length(placement.group, neighbour.group) if neighbour else 0
    far = shared_length(placement.group, held.group) if held else 0
    if far and far >= near:
        placement.start, placement.held = far, held
    elif near and neighbour:
        placement.start, placement.neighbour = near, neighbour
        # What the neighbour copies is there when its stage begins, the rest when it has ended.
        placement.stage = neighbour.stage + (near > neighbour.start)


MAX_RUN_TOKENS = 1024
MAX_RUN_LOGITS = 256


@dataclass(frozen=True, slots=True)
class _Part:
    placement: Placement
    chunk: Chunk

    @property
    def end(self) -> int:
        return self.chunk.start + len(self.chunk.token_ids)


def prefill(runner: ModelRunner, placements: Sequence[Placement], capacity: int) -> None:
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
        _compute(runner, list(members), capacity)
    for placement in placements:
        if any(np.isnan(chunk.logprobs).any() for chunk in placement.scores):
            placement.group.state.error = errors.numerical_error()


def score_tail(runner: ModelRunner, slot: int, token_ids: TokenIds, first: int) -> Floats:
    """Compute tokens in a free slot; the logprobs of those from position `first` > 0 on.

    NaN where the model computed no usable number.
    """
    start, logprobs = 0, []
    for end in chunk_ends(len(token_ids)):
        num_logits = max(0, end - max(start, first - 1))
        chunk = Chunk(slot, start, token_ids[start:end], num_logits)
        logits = runner.prefill([chunk])
        targets = token_ids[end - num_logits + 1 : end + 1]
        if len(targets):
            none = np.zeros(len(targets), np.int64)
            logprobs.append(_scores(logits[: len(targets)], targets, none).logprobs)
        start = end
    return np.concatenate(logprobs)


def _copy(runner: ModelRunner, placement: Placement, slot: int, scores: Sequence[Scores]) -> None:
    """Take the first tokens from another slot, and the scores of those that follow them."""
    if slot != placement.slot:
        runner.copy(slot, placement.slot, placement.start)
    left = placement.start if placement.group.scores_prompt else 0
    for chunk in scores:
        if left > 0:
            placement.scores.append(Scores._make(array[:left] for array in chunk))
            left -= len(chunk.logprobs)


def _compute(runner: ModelRunner, placements: Sequence[Placement], capacity: int) -> None:
    for run in _runs(placements, capacity):
        logits = runner.prefill([part.chunk for part in run])
        stop = 0
        for part in run:
            start, stop = stop, stop + part.chunk.num_logits
            _keep(part, logits[start:stop])


def _runs(placements: Sequence[Placement], capacity: int) -> Iterator[list[_Part]]:
    """Yield runs over neighbouring slots: all first chunks, then all second ones."""
    for index in range(len(placements[0].ends)):
        run: list[_Part] = []
        for placement in placements:
            if index >= len(placement.ends):
                break  # placements are sorted, so all further ones are done too
            part = _part(placement, index)
            if run and not _fits([*run, part], capacity):
                yield run
                run = []
            run.append(part)
        yield run


def _part(placement: Placement, index: int) -> _Part:
    ends, group = placement.ends, placement.group
    start, end = ends[index - 1] if index else placement.start, ends[index]
    num_logits = end - start if group.scores_prompt else int(end == ends[-1])
    chunk = Chunk(placement.slot, start, group.prompt_token_ids[start:end], num_logits)
    return _Part(placement, chunk)


def _fits(run: list[_Part], capacity: int) -> bool:
    """Say whether a run stays within memory, each row with room for the longest row's chunk."""
    chunks = [part.chunk for part in run]
    sizes = [len(chunk.token_ids) for chunk in chunks]
    logits = sum(chunk.num_logits for chunk in chunks)
    has_room = max(chunk.start for chunk in chunks) + max(sizes) <= capacity
    return has_room and sum(sizes) <= MAX_RUN_TOKENS and logits <= MAX_RUN_LOGITS


def _scores(logits: Logits, targets: TokenIds, asked: TokenIds) -> Scores:
    """Score targets under logits [n, V], which are changed; NaN under rows without numbers."""
    is_broken = ~np.isfinite(logits.max(axis=1))
    logits[is_broken] = 0
    scores = score(logits, np.full(len(targets), np.nan), targets, asked)
    scores.logprobs[is_broken] = np.nan
    return scores


def _keep(part: _Part, logits: Logits) -> None:
    """Copy what is still needed of a chunk's logits [R, V]; the runner will overwrite them."""
    placement, group = part.placement, part.placement.group
    prompt = group.prompt_token_ids
    if group.scores_prompt:
        targets = prompt[part.chunk.start + 1 : part.end + 1]
        asked = np.full(len(targets), group.params.num_logprobs or 0)
        placement.scores.append(_scores(logits[: len(targets)], targets, asked))
    if part.end == len(prompt):
        placement.last_logits = logits[-1].copy()
