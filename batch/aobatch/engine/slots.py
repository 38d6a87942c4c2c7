"""The rows of a step as columns: what each slot generated, and where it stands."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aobatch.api import errors
from aobatch.arrays import Floats, TokenIds
from aobatch.engine.choices import NO_TOP
from aobatch.engine.sequence import Sequence
from aobatch.engine.streaming import ChoiceStream, Listener
from aobatch.models.tokenizer import Tokenizer
from aobatch.sampling.sampler import Sampled


@dataclass(frozen=True, slots=True)
class SlotColumns:
    """Arrays over the slots [S]; rows 0 to the number of active sequences are in use."""

    cached: TokenIds
    """Tokens in the cache."""
    generated: TokenIds
    """Tokens sampled so far."""
    max_tokens: TokenIds
    num_tokens_at_most: TokenIds
    """Tokens that the slot must have room for."""
    last_token: TokenIds
    is_watched: NDArray[np.bool_]
    token_ids: TokenIds
    """[S, T]"""
    logprobs: Floats
    """[S, T]"""

    @classmethod
    def empty(cls, num_slots: int, max_tokens: int) -> "SlotColumns":
        """Allocate columns for slots of up to max_tokens generated tokens."""
        shape = (num_slots, max_tokens)
        return cls(
            cached=np.zeros(num_slots, np.int64),
            generated=np.zeros(num_slots, np.int64),
            max_tokens=np.zeros(num_slots, np.int64),
            num_tokens_at_most=np.zeros(num_slots, np.int64),
            last_token=np.zeros(num_slots, np.int64),
            is_watched=np.zeros(num_slots, np.bool_),
            token_ids=np.zeros(shape, np.int64),
            logprobs=np.zeros(shape),
        )

    def arrays(self) -> tuple[NDArray[np.generic], ...]:
        """Give all columns."""
        return tuple(getattr(self, name) for name in self.__slots__)


class Slots:
    """Sequences in neighbouring slots 0 to N, and their columns."""

    def __init__(self) -> None:
        self.sequences: list[Sequence] = []
        self._columns = SlotColumns.empty(0, 0)

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def cached(self) -> TokenIds:
        """Tokens in the cache, [N]."""
        return self._columns.cached[: len(self)]

    @property
    def num_tokens_at_most(self) -> int:
        """Tokens that each slot must have room for."""
        return int(self._columns.num_tokens_at_most[: len(self)].max(initial=0))

    @property
    def last_token(self) -> TokenIds:
        """The token that each slot sampled last, [N]."""
        return self._columns.last_token[: len(self)]

    def admit(self, sequence: Sequence) -> None:
        """Put a sequence whose prompt is in the cache into the next slot."""
        slot, group = len(self), sequence.group
        self._make_room(slot + 1, max(1, group.max_tokens))
        columns = self._columns
        columns.cached[slot] = len(group.prompt_token_ids)
        columns.generated[slot] = 0
        columns.max_tokens[slot] = group.max_tokens
        columns.num_tokens_at_most[slot] = group.num_tokens_at_most
        columns.is_watched[slot] = sequence.is_watched
        self.sequences.append(sequence)

    def append(self, sampled: Sampled, first: int) -> TokenIds:
        """Add a sampled token to the slots from `first` on; give those that are full, [F]."""
        columns, rows = self._columns, np.arange(first, len(self))
        place = columns.generated[first : len(self)]
        columns.token_ids[rows, place] = sampled.token_ids
        columns.logprobs[rows, place] = sampled.logprobs
        columns.last_token[first : len(self)] = sampled.token_ids
        place += 1
        return rows[place >= columns.max_tokens[first : len(self)]]

    def advance(self) -> None:
        """Count the last tokens as cached: a decode step has taken them in."""
        self._columns.cached[: len(self)] += 1

    def watched(self, first: int) -> TokenIds:
        """Give the slots from `first` on whose tokens must be looked at."""
        return first + np.flatnonzero(self._columns.is_watched[first : len(self)])

    def keeps_tokens(self, slot: int) -> bool:
        """Say whether the slot is there for tokens, and not for its prompt's scores alone."""
        return bool(self._columns.max_tokens[slot])

    def close(self, slot: int) -> None:
        """Hand a finished sequence its tokens and logprobs; max_tokens 0 keeps none."""
        columns, sequence = self._columns, self.sequences[slot]
        count = min(columns.generated[slot], columns.max_tokens[slot])
        sequence.token_ids = columns.token_ids[slot, :count].copy()
        sequence.logprobs = columns.logprobs[slot, :count].copy()

    def remove(self, slot: int) -> int | None:
        """Free a slot; give the slot whose sequence now lives there, None if it was the last."""
        last = len(self) - 1
        moved = self.sequences.pop()
        if slot == last:
            return None
        self.sequences[slot] = moved
        for column in self._columns.arrays():
            column[slot] = column[last]
        return last

    def _make_room(self, num_slots: int, max_tokens: int) -> None:
        old_slots, old_tokens = self._columns.token_ids.shape
        if num_slots <= old_slots and max_tokens <= old_tokens:
            return
        slots = old_slots if num_slots <= old_slots else max(num_slots, 2 * old_slots)
        tokens = old_tokens if max_tokens <= old_tokens else max(max_tokens, 2 * old_tokens)
        grown = SlotColumns.empty(slots, tokens)
        for new, old in zip(grown.arrays(), self._columns.arrays(), strict=True):
            new[tuple(slice(0, size) for size in old.shape)] = old
        self._columns = grown


class Intake:
    """Notes what the slots of a lane sampled."""

    def __init__(
        self, slots: Slots, tokenizer: Tokenizer, end_token_ids: TokenIds, listener: Listener
    ) -> None:
        self._slots = slots
        self._tokenizer = tokenizer
        self._end_token_ids = end_token_ids
        self._listener = listener
        self._streams: dict[Sequence, ChoiceStream] = {}

    def open(self, sequence: Sequence) -> None:
        """Begin to listen to a sequence, if it is to be streamed."""
        group = sequence.group
        # Which of ranked candidates are returned is known only when all have finished.
        if group.state.request.body.stream and not group.is_ranked:
            self._streams[sequence] = ChoiceStream(sequence, self._tokenizer, self._listener)

    def close(self, sequence: Sequence) -> None:
        """Send what is left of a finished sequence."""
        if stream := self._streams.pop(sequence, None):
            stream.finish()

    def take_in(self, sampled: Sampled, first: int) -> list[int]:
        """Note a sampled token of each slot from `first` on; give the slots that are finished."""
        slots = self._slots
        reasons = dict.fromkeys(slots.append(sampled, first).tolist(), "length")
        stopped = [*self._ended(sampled.token_ids, first), *self._watch(sampled, first)]
        reasons |= dict.fromkeys((s for s in stopped if slots.keeps_tokens(s)), "stop")
        for slot in (first + np.flatnonzero(~sampled.is_finite)).tolist():
            slots.sequences[slot].group.state.error = errors.numerical_error()
            reasons[slot] = "stop"
        for slot, reason in reasons.items():
            slots.sequences[slot].finish_reason = reason
        return sorted(reasons, reverse=True)

    def _ended(self, token_ids: TokenIds, first: int) -> Iterator[int]:
        """Find the slots whose new token ends them, by the model's word or the request's."""
        ends = first + np.flatnonzero(np.isin(token_ids, self._end_token_ids))
        for slot in {*ends.tolist(), *self._slots.watched(first).tolist()}:
            sequence, token_id = self._slots.sequences[slot], int(token_ids[slot - first])
            if token_id in sequence.end_token_ids:
                sequence.ends_with_token = True
                yield slot

    def _watch(self, sampled: Sampled, first: int) -> Iterator[int]:
        """Keep the top logprobs of watched slots; find those in which a stop string is complete."""
        for slot in self._slots.watched(first).tolist():
            sequence, row = self._slots.sequences[slot], slot - first
            token_id, top = int(sampled.token_ids[row]), NO_TOP
            if asked := sequence.group.params.num_logprobs:
                top = sampled.top_ids[row, :asked].copy(), sampled.top_logprobs[row, :asked].copy()
                sequence.tops.append(top)
            if sequence.ends_with_token:
                continue
            watcher, stream = sequence.watcher, self._streams.get(sequence)
            if watcher is not None and watcher.push(self._tokenizer.token_bytes[token_id]):
                yield slot
            elif stream is not None and self._slots.keeps_tokens(slot):
                stream.push(token_id, float(sampled.logprobs[row]), top)
