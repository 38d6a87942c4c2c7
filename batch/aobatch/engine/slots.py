"""The rows of a step as columns: what each slot generated, and where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from aobatch.api import errors
from aobatch.arrays import Floats, TokenIds
from aobatch.engine.choices import NO_TOP
from aobatch.engine.sequence import Sequence
from aobatch.engine.streaming import ChoiceStream, Listener
from aobatch.models.tokenizer import Tokenizer
from aobatch.sampling.processors import Masks
from aobatch.sampling.sampler import Sampled
from aobatch.shapes.matching import Masker, Matcher, failure, unusable

SLOT = np.dtype(
    [
        ("cached", np.int64),
        ("generated", np.int64),
        ("max_tokens", np.int64),
        ("num_tokens_at_most", np.int64),
        ("last_token", np.int64),
        ("is_watched", np.bool_),
        ("is_shaped", np.bool_),
    ]
)
"""Tokens in the cache, and sampled so far; how many of either it must have room for."""


class Slots:
    """Sequences in neighbouring slots 0 to N, and their numbers and tokens as columns."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self._table: NDArray[np.void] = np.zeros(0, SLOT)
        self._token_ids: TokenIds = np.zeros((0, 0), np.int64)
        self._logprobs: Floats = np.zeros((0, 0))

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def cached(self) -> TokenIds:
        """Tokens in the cache, [N]."""
        return np.ascontiguousarray(self._table["cached"][: len(self)])

    @property
    def last_token(self) -> TokenIds:
        """The token that each slot sampled last, [N]."""
        return np.ascontiguousarray(self._table["last_token"][: len(self)])

    @property
    def num_tokens_at_most(self) -> int:
        """Tokens that each slot must have room for."""
        return int(self._table["num_tokens_at_most"][: len(self)].max(initial=0))

    def admit(self, sequence: Sequence) -> None:
        """Put a sequence whose prompt is in the cache into the next slot."""
        slot, group = len(self), sequence.group
        self._make_room(slot + 1, max(1, group.max_tokens))
        num_cached, num_at_most = len(group.prompt_token_ids), group.num_tokens_at_most
        flags = sequence.is_watched, sequence.matcher is not None
        self._table[slot] = num_cached, 0, group.max_tokens, num_at_most, 0, *flags
        self.sequences.append(sequence)

    def append(self, sampled: Sampled, first: int) -> TokenIds:
        """Add a sampled token to the slots from `first` on; return those that are full, [F]."""
        table, rows = self._table[first : len(self)], np.arange(first, len(self))
        self._token_ids[rows, table["generated"]] = sampled.token_ids
        self._logprobs[rows, table["generated"]] = sampled.logprobs
        table["last_token"] = sampled.token_ids
        table["generated"] += 1
        return rows[table["generated"] >= table["max_tokens"]]

    def advance(self) -> None:
        """Count the last tokens as cached: a decode step has taken them in."""
        self._table["cached"][: len(self)] += 1

    def history(self, slot: int) -> tuple[TokenIds, int]:
        """Give the prompt and all sampled tokens of a slot, and how many may follow the next."""
        row = self._table[slot]
        sampled = self._token_ids[slot, : row["generated"]]
        prompt = self.sequences[slot].group.prompt_token_ids
        return np.concatenate([prompt, sampled]), int(row["max_tokens"] - row["generated"] - 1)

    def watched(self, first: int) -> TokenIds:
        """Find the slots from `first` on whose tokens must be looked at."""
        return first + np.flatnonzero(self._table["is_watched"][first : len(self)])

    def shaped(self, first: int) -> tuple[TokenIds, list[Matcher]]:
        """Find the slots from `first` on whose answers have a shape, [M], and their matchers."""
        slots = first + np.flatnonzero(self._table["is_shaped"][first : len(self)])
        matchers = [self.sequences[slot].matcher for slot in slots.tolist()]
        return slots, [matcher for matcher in matchers if matcher is not None]

    def keeps_tokens(self, slot: int) -> bool:
        """Say whether the slot is there for tokens, and not for its prompt's scores alone."""
        return bool(self._table["max_tokens"][slot])

    def close(self, slot: int) -> None:
        """Hand a finished sequence its tokens and logprobs; max_tokens 0 keeps none."""
        sequence, row = self.sequences[slot], self._table[slot]
        count = min(row["generated"], row["max_tokens"])
        sequence.token_ids = self._token_ids[slot, :count].copy()
        sequence.logprobs = self._logprobs[slot, :count].copy()
        sequence.matcher = None

    def remove(self, slot: int) -> int | None:
        """Free a slot; return the slot whose sequence now lives there, None if it was the last."""
        last = len(self) - 1
        moved = self.sequences.pop()
        if slot == last:
            return None
        self.sequences[slot] = moved
        for column in (self._table, self._token_ids, self._logprobs):
            column[slot] = column[last]
        return last

    def _make_room(self, num_slots: int, max_tokens: int) -> None:
        old_slots, old_tokens = self._token_ids.shape
        slots = old_slots if num_slots <= old_slots else max(num_slots, 2 * old_slots)
        tokens = old_tokens if max_tokens <= old_tokens else max(max_tokens, 2 * old_tokens)
        if (slots, tokens) != (old_slots, old_tokens):
            more = (0, slots - old_slots), (0, tokens - old_tokens)
            self._table = np.pad(self._table, more[:1])
            self._token_ids = np.pad(self._token_ids, more)
            self._logprobs = np.pad(self._logprobs, more)


@dataclass(slots=True)
class Intake:
    """Notes what the slots of a lane sampled."""

    slots: Slots
    tokenizer: Tokenizer
    end_token_ids: TokenIds
    listener: Listener
    streams: dict[Sequence, ChoiceStream] = field(default_factory=dict)
    masker: Masker = field(init=False)

    def __post_init__(self) -> None:
        self.masker = Masker(len(self.tokenizer.token_bytes))

    def open(self, sequence: Sequence) -> None:
        """Begin to listen to a sequence, if it is to be streamed."""
        group = sequence.group
        # Which of ranked candidates are returned is known only when all have finished.
        if group.body.stream and not group.is_ranked:
            self.streams[sequence] = ChoiceStream(sequence, self.tokenizer, self.listener)

    def close(self, sequence: Sequence) -> None:
        """Send what is left of a finished sequence, unless nobody wants it any more."""
        stream = self.streams.pop(sequence, None)
        if stream and not sequence.group.state.is_cancelled:
            stream.finish()

    def masks(self, first: int) -> Masks | None:
        """Say how the answers of shapes may go on, in the slots from `first` on."""
        slots, matchers = self.slots.shaped(first)
        return Masks(slots - first, self.masker.allowed(matchers)) if matchers else None

    def take_in(self, sampled: Sampled, first: int) -> list[int]:
        """Note a sampled token of each slot from `first` on; give the slots that are finished."""
        slots = self.slots
        reasons = dict.fromkeys(slots.append(sampled, first).tolist(), "length")
        stopped = [
            *self._ended(sampled.token_ids, first),
            *self._watch(sampled, first),
            *self._complete(sampled.token_ids, first),
        ]
        reasons |= dict.fromkeys((s for s in stopped if slots.keeps_tokens(s)), "stop")
        for slot in (first + np.flatnonzero(~sampled.is_finite)).tolist():
            slots.sequences[slot].group.state.error = errors.numerical_error()
            reasons[slot] = "stop"
        for slot, reason in reasons.items():
            slots.sequences[slot].finish_reason = reason
        return sorted(reasons, reverse=True)

    def _ended(self, token_ids: TokenIds, first: int) -> Iterator[int]:
        """Find the slots whose new token ends them, by the model's word or the request's."""
        ends = first + np.flatnonzero(np.isin(token_ids, self.end_token_ids))
        for slot in {*ends.tolist(), *self.slots.watched(first).tolist()}:
            sequence, token_id = self.slots.sequences[slot], int(token_ids[slot - first])
            if token_id in sequence.group.params.end_token_ids and self.slots.keeps_tokens(slot):
                sequence.ends_with_token = True
                yield slot

    def _complete(self, token_ids: TokenIds, first: int) -> Iterator[int]:
        """Hold the answers of shapes to them; find the slots in which nothing may follow."""
        slots, matchers = self.slots.shaped(first)
        if not matchers:
            return
        stops = self.masker.take(matchers, token_ids[slots - first])
        for slot, matcher, is_at_end in zip(slots.tolist(), matchers, stops, strict=True):
            if is_at_end:
                group = self.slots.sequences[slot].group
                if group.body.shape and (reason := failure(matcher)):
                    group.state.error = unusable(group.body.shape, reason)
                yield slot

    def _watch(self, sampled: Sampled, first: int) -> Iterator[int]:
        """Keep the top logprobs of watched slots; find those in which a stop string is complete."""
        for slot in self.slots.watched(first).tolist():
            sequence, row = self.slots.sequences[slot], slot - first
            token_id, top = int(sampled.token_ids[row]), NO_TOP
            if asked := sequence.group.params.num_logprobs:
                top = sampled.top_ids[row, :asked].copy(), sampled.top_logprobs[row, :asked].copy()
                sequence.tops.append(top)
            if sequence.ends_with_token:
                continue
            watcher, stream = sequence.watcher, self.streams.get(sequence)
            if watcher is not None and watcher.push(self.tokenizer.token_bytes[token_id]):
                yield slot
            elif stream is not None and self.slots.keeps_tokens(slot):
                stream.push(token_id, float(sampled.logprobs[row]), top)
