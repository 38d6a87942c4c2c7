"""The tokens of a step taken in: who is finished, what is watched, what is streamed."""

from collections.abc import Iterator

import numpy as np

from aobatch.api import errors
from aobatch.arrays import TokenIds
from aobatch.engine.listing import NO_TOP
from aobatch.engine.sequence import Sequence
from aobatch.engine.slots import Slots
from aobatch.engine.streaming import ChoiceStream, Listener
from aobatch.models.tokenizer import Tokenizer
from aobatch.sampling.sampler import Sampled


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
