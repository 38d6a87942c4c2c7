"""Which prompts a lane computes into which slots, and what each takes from another."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aobatch.arrays import Logits
from aobatch.engine.prefixes import HeldPrompts, Source, shared_length
from aobatch.engine.sequence import SequenceGroup
from aobatch.sampling.logprobs import Scores

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
