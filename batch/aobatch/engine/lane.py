"""One lane of continuous batching: admit, decode all slots one token, retire, refill.

A lane has slots, a runner and a sampler of its own and is worked by one thread. While one lane
samples, the others are inside their runs.

A run of one row waits for weights, so that some rows beside it cost little. In a lone slot guessed
tokens are therefore taken in with the last one, and those that are then sampled need no run of
their own (speculative decoding, Leviathan et al. 2023). Nothing else comes of it: bits of logits do
not depend on what shares a run, and each token is sampled as ever.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np

from aobatch.arrays import Logits, TokenIds
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.prefill import HeldPrompts, Placement, place, prefill, score_suffix
from aobatch.engine.scheduler import Scheduler, capacity_for
from aobatch.engine.sequence import Sequence, SequenceGroup
from aobatch.engine.slots import Intake, Slots
from aobatch.engine.streaming import Delta
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import Chunk, ModelRunner
from aobatch.sampling.columns import stream_key
from aobatch.sampling.sampler import Sampler

GUESSED: Final = (2, 4, 11)
"""Guessed tokens at most, where one, two and three of the last ones stood together before."""


@dataclass(eq=False)
class Lane:
    """Computes sequences of the scheduler until it is closed."""

    index: int
    runner: ModelRunner
    sampler: Sampler
    scheduler: Scheduler
    tokenizer: Tokenizer
    end_token_ids: TokenIds
    config: EngineConfig
    emit: Callable[[Sequence | Delta], None]

    def __post_init__(self) -> None:
        self.statistics = EngineStatistics()
        self._slots = Slots()
        self._held = HeldPrompts()
        self._last_logits: dict[SequenceGroup, Logits] = {}
        self._intake = Intake(self._slots, self.tokenizer, self.end_token_ids, self.emit)
        self._reserved = (0, 0)

    @property
    def seconds_in_run(self) -> float:
        """How long it has been inside the model's present run; any thread may ask."""
        return self.runner.seconds_in_run

    def work(self) -> None:
        """Compute until the scheduler is closed; sequences are handed over as they finish."""
        while self._admit():
            started = time.perf_counter()
            self._drop_cancelled()
            self._decode()
            self.statistics.lane_seconds += time.perf_counter() - started

    def _admit(self) -> bool:
        """Start sequences until the slots are full; False if there is no more to do."""
        while True:
            capacity = capacity_for(self._slots.num_tokens_at_most)
            taken = self.scheduler.take(self.index, len(self._slots), capacity)
            if taken is None:
                return False
            if not taken:
                return True
            started = time.perf_counter()
            needed = max(sequence.group.num_tokens_at_most for sequence in taken)
            self._reserve(max(capacity, capacity_for(needed)))
            self._start(taken)
            self.statistics.lane_seconds += time.perf_counter() - started

    def _reserve(self, capacity: int) -> None:
        """Make slots large enough, and smaller again where that makes room for more of them."""
        num_slots, reserved = self._reserved
        wanted = self.scheduler.slots_for(self.index, capacity)
        if capacity > reserved or wanted > num_slots:
            self.runner.reserve(wanted, capacity, self._slots.cached.tolist())
            self._held.keep(len(self._slots))
            self._reserved = (wanted, capacity)

    def _start(self, sequences: list[Sequence]) -> None:
        """Compute the prompts of new sequences and sample their first tokens."""
        first, started = len(self._slots), time.perf_counter()
        groups = dict.fromkeys(sequence.group for sequence in sequences)
        for state in {id(group.state): group.state for group in groups}.values():
            state.started = state.started or time.monotonic()
        fresh = [group for group in groups if not self._is_decoded(group)]
        placements = self._place(fresh, first)
        prefill(self.runner, placements, self._reserved[1], self.sampler.blocks_of)
        self._admit_all(sequences, placements)
        statistics = self.statistics
        statistics.prefix_tokens_shared += sum(p.start for p in placements)
        statistics.prefill_tokens += sum(len(g.prompt_token_ids) for g in fresh)
        statistics.prefill_tokens -= sum(p.start for p in placements)
        statistics.prefill_seconds += time.perf_counter() - started
        placed = [sequence.group for sequence in self._slots.sequences[first:]]
        logits = np.stack([self._last_logits[group] for group in placed])
        statistics.sampled_tokens += len(placed)
        for group in [group for group in self._last_logits if group.is_started]:
            del self._last_logits[group]
        sampled = self.sampler.sample(logits, first, self._intake.masks(first))
        self._finish(self._intake.take_in(sampled, first))

    def _place(self, groups: list[SequenceGroup], first: int) -> list[Placement]:
        """Assign slots to prompts, sharing what they have in common if bits do not depend on it."""
        if self.config.shares_prefixes:
            placements = place(groups, self._held, first, self.runner.min_chunk)
            if all(p.start == 0 for p in placements) or self.runner.splits_freely:
                return placements
        return place(groups, None, first, self.runner.min_chunk)

    def _is_decoded(self, group: SequenceGroup) -> bool:
        """Say whether a slot holds the group's prompt and its last logits are known."""
        return group in self._last_logits and any(
            sequence.group is group for sequence in self._slots.sequences
        )

    def _admit_all(self, sequences: list[Sequence], placements: list[Placement]) -> None:
        """Let the first sequence of each placed prompt have its slot, and copy it for the rest."""
        rest = dict.fromkeys(sequences)
        for placement in sorted(placements, key=lambda p: p.slot):
            group = placement.group
            group.prompt_scores = placement.scores
            if placement.last_logits is not None:
                self._last_logits[group] = placement.last_logits
            head = next(sequence for sequence in rest if sequence.group is group)
            del rest[head]
            self._admit_one(head)
        for sequence in rest:
            group = sequence.group
            source = next(i for i, s in enumerate(self._slots.sequences) if s.group is group)
            self.runner.copy(source, len(self._slots), len(group.prompt_token_ids))
            self._admit_one(sequence)

    def _admit_one(self, sequence: Sequence) -> None:
        slot, group = len(self._slots), sequence.group
        self._slots.admit(sequence)
        self._held.put(slot, group)
        self._intake.open(sequence)
        self.sampler.admit(slot, group.params, self._key(sequence), group.prompt_token_ids)

    def _key(self, sequence: Sequence) -> bytes:
        """Derive the key of a sequence's random numbers from nothing but its request."""
        request, group = sequence.group.state.request, sequence.group
        seed = request.body.seed
        origin = (self.config.seed, request.key) if seed is None else (seed,)
        return stream_key(*origin, group.index, sequence.candidate)

    def _decode(self) -> None:
        """Add one token to every slot, or to a lone one as many as were guessed and one."""
        slots, statistics = self._slots, self.statistics
        if not len(slots):
            return
        started = time.perf_counter()
        guessed = self._guess()
        if guessed.size:
            token_ids = np.append(slots.last_token, guessed)
            chunk = Chunk(0, int(slots.cached[0]), token_ids, len(token_ids))
            logits = self.runner.prefill([chunk])
        else:
            logits = self.runner.decode(slots.last_token, slots.cached)
        decoded = time.perf_counter()
        statistics.decode_seconds += decoded - started
        statistics.decode_steps += 1
        statistics.decode_rows += len(slots)
        statistics.decode_slots += self._reserved[0]
        if self.scheduler.num_waiting:
            statistics.busy_rows += len(slots)
            statistics.busy_slots += self._reserved[0]
        self._sample(logits, guessed)

    def _guess(self) -> TokenIds:
        """Guess what follows in a lone slot, if its bits do not depend on that."""
        if len(self._slots) > 1 or self.runner.min_chunk > 1 or not self.runner.splits_freely:
            return self._slots.last_token[:0]
        return guess(*self._slots.history(0))

    def _sample(self, logits: Logits, guessed: TokenIds) -> None:
        """Sample from each slot's logits, and from those behind guesses [G] that were right."""
        num_right, is_done = 0, False
        while not is_done:
            started = time.perf_counter()
            rows = logits[num_right : num_right + len(self._slots)]
            self._slots.advance()
            sampled = self.sampler.sample(rows, masks=self._intake.masks(0))
            self.statistics.sample_seconds += time.perf_counter() - started
            self.statistics.sampled_tokens += len(rows)
            finished = self._intake.take_in(sampled, 0)
            is_done = num_right == len(guessed) or sampled.token_ids[0] != guessed[num_right]
            num_right += not is_done
            is_done |= bool(finished)
            self._finish(finished)

    def _drop_cancelled(self) -> None:
        """Free the slots of requests that nobody wants any more."""
        for group in [group for group in self._last_logits if group.state.is_cancelled]:
            del self._last_logits[group]
        sequences = enumerate(self._slots.sequences)
        self._finish([slot for slot, s in sequences if s.group.state.is_cancelled][::-1])

    def _finish(self, finished: list[int]) -> None:
        """Free the slots, given from the last to the first, and hand their sequences over."""
        for slot in finished:
            sequence = self._slots.sequences[slot]
            self._slots.close(slot)
            last = self._slots.remove(slot)
            if last is not None:
                self.runner.copy(last, slot, int(self._slots.cached[slot]))
                self.sampler.move(last, slot)
                self._held.move(last, slot)
            self._intake.close(sequence)
            if sequence.group.ranks_by_suffix and not sequence.group.state.is_cancelled:
                free = len(self._slots)
                self._held.forget(free)
                score_suffix(self.runner, free, sequence, self.tokenizer, self.sampler.blocks_of)
            sequence.group.state.ended = time.monotonic()
            self.emit(sequence)


def guess(token_ids: TokenIds, room: int) -> TokenIds:
    """Guess at most `room` tokens behind those [n] of a text (prompt lookup, Saxena 2023).

    They are what followed where most of the last tokens stood before, at its last place; where that
    was the end of the text, it is taken to repeat itself. Nothing is guessed without a like place.
    """
    ends, num_guessed = np.arange(1, len(token_ids)), 0
    for alike, most in enumerate(GUESSED[: max(0, len(token_ids) - 1)], 1):
        places = ends[ends >= alike]
        places = places[token_ids[places - alike] == token_ids[-alike]]
        if not places.size:
            break
        ends, num_guessed = places, most
    start = ends[-1] if num_guessed else 0
    return np.resize(token_ids[start:], min(room, num_guessed))
