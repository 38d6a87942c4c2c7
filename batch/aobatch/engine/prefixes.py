"""Beginnings that prompts share: computed once, then copied from slot to slot.

A token's keys and values depend on the tokens up to it alone, to the bit, wherever its prompt is
cut into pieces of two or more tokens (see `ModelRunner.splits_freely`), so that a copy is as good
as a computation.
"""

from typing import NamedTuple

import numpy as np

from aobatch.arrays import TokenIds
from aobatch.engine.sequence import SequenceGroup

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
