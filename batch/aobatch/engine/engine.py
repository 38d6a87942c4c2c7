"""Continuous batching: admit, decode all slots one token, retire the finished, refill."""

import time
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from aobatch.api import faults
from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.arrays import TokenIds
from aobatch.engine.choices import choices_of, usage_of
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.listing import NO_TOP
from aobatch.engine.prefill import prefill
from aobatch.engine.preparation import ModelLimits, Preparation
from aobatch.engine.result import Result
from aobatch.engine.scheduler import Scheduler, capacity_for
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup
from aobatch.engine.slots import Slots
from aobatch.engine.streaming import ChoiceStream, Delta, Listener
from aobatch.engine.suffix import score_suffix
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import ModelRunner
from aobatch.sampling.random import stream_key
from aobatch.sampling.sampler import Sampled, Sampler


class Engine:
    """Computes requests with one model; each result depends on its request alone."""

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, limits: ModelLimits, config: EngineConfig
    ) -> None:
        self.statistics = EngineStatistics()
        self._runner = runner
        self._tokenizer = tokenizer
        self._config = config
        self._end_token_ids = np.array(limits.eos_token_ids, np.int64)
        self._preparation = Preparation(tokenizer, limits, clamp_max_tokens=config.clamp_max_tokens)
        self._sampler = Sampler(config.max_num_seqs, limits.vocab_size, config.logprobs_mode)
        self._slots = Slots()
        self._streams: dict[Sequence, ChoiceStream] = {}
        self._listener: Listener | None = None
        self._reserved = (0, 0)

    def run(
        self, requests: Iterable[Request], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Compute requests, results in the order in which they finish.

        Requests are pulled as they are needed, at most `lookahead` prompts ahead. One run at a
        time; closing the generator gives up what is in flight. The listener gets the pieces of
        requests that ask for a stream.
        """
        self._slots, self._streams, self._listener = Slots(), {}, listener
        scheduler = Scheduler(
            iter(requests),
            self._preparation.prepare,
            self._config,
            self._runner.kv_bytes_per_token,
        )
        while True:
            yield from map(self._skipped, scheduler.fill())
            yield from map(self._result, self._admit(scheduler))
            if self._slots.sequences:
                yield from map(self._result, self._decode())
            elif scheduler.is_done:
                return

    def _admit(self, scheduler: Scheduler) -> Iterator[RequestState]:
        """Start sequences until the slots are full; yield requests that are finished already."""
        while True:
            num_active = len(self._slots)
            capacity = self._reserved[1] if num_active else 0
            sequences = scheduler.take(num_active, capacity)
            if not sequences:
                return
            self._reserve(scheduler, max([capacity, *(capacity_for(s.group) for s in sequences)]))
            yield from self._start(sequences)

    def _reserve(self, scheduler: Scheduler, capacity: int) -> None:
        wanted = (scheduler.slots_for(capacity), capacity)
        if wanted != self._reserved:
            self._runner.reserve(*wanted, self._slots.cached.tolist())
            self._reserved = wanted

    def _start(self, sequences: list[Sequence]) -> list[RequestState]:
        """Compute the prompts of new sequences and sample their first tokens."""
        first = len(self._slots)
        started = time.perf_counter()
        groups = dict.fromkeys(sequence.group for sequence in sequences)
        fresh = [group for group in groups if self._slot_of(group) is None]
        fresh.sort(key=lambda group: -len(group.prompt_token_ids))
        if fresh:
            prefill(self._runner, fresh, first)
            self.statistics.prefill_tokens += sum(len(g.prompt_token_ids) for g in fresh)
        self._place(sequences, fresh)
        self.statistics.prefill_seconds += time.perf_counter() - started
        placed = [sequence.group for sequence in self._slots.sequences[first:]]
        logits = np.stack([group.last_logits for group in placed if group.last_logits is not None])
        for group in groups:
            if len(group.sequences) == group.num_sequences:
                group.last_logits = None
        return self._finish(self._take_in(self._sampler.sample(logits, first), first))

    def _slot_of(self, group: SequenceGroup) -> int | None:
        """Find a slot that holds the group's prompt."""
        found = (i for i, s in enumerate(self._slots.sequences) if s.group is group)
        return next(found, None)

    def _place(self, sequences: list[Sequence], fresh: list[SequenceGroup]) -> None:
        """Give slots to new sequences: one to each fresh prompt as computed, copies to the rest."""
        rest: list[Sequence] = []
        heads: dict[SequenceGroup, Sequence] = {}
        for sequence in sequences:
            is_head = sequence.group in fresh and sequence.group not in heads
            heads.setdefault(sequence.group, sequence)
            rest += [] if is_head else [sequence]
        for sequence in [*(heads[group] for group in fresh), *rest]:
            slot, group = len(self._slots), sequence.group
            source = self._slot_of(group)
            if source is not None:
                self._runner.copy(source, slot, len(group.prompt_token_ids))
            self._slots.admit(sequence)
            # Which of ranked candidates are returned is known only when all have finished.
            if self._listener and group.state.request.body.stream and not group.is_ranked:
                self._streams[sequence] = ChoiceStream(sequence, self._tokenizer, self._listener)
            self._sampler.admit(slot, group.params, self._key(sequence), group.prompt_token_ids)

    def _key(self, sequence: Sequence) -> bytes:
        """Give the key of a sequence's random numbers, which names nothing but its request."""
        request, group = sequence.group.state.request, sequence.group
        seed = request.body.seed
        origin = (self._config.seed, request.key) if seed is None else (seed,)
        return stream_key(*origin, group.index, sequence.candidate)

    def _decode(self) -> list[RequestState]:
        """Add one token to every slot."""
        slots, statistics = self._slots, self.statistics
        started = time.perf_counter()
        logits = self._runner.decode(slots.last_token, slots.cached)
        decoded = time.perf_counter()
        slots.advance()
        sampled = self._sampler.sample(logits)
        statistics.decode_seconds += decoded - started
        statistics.sample_seconds += time.perf_counter() - decoded
        statistics.decode_steps += 1
        statistics.decode_rows += len(slots)
        statistics.max_rows = max(statistics.max_rows, len(slots))
        return self._finish(self._take_in(sampled, 0))

    def _take_in(self, sampled: Sampled, first: int) -> list[int]:
        """Note a sampled token of each slot from `first` on; give the slots that are finished."""
        slots = self._slots
        reasons = dict.fromkeys(slots.append(sampled, first).tolist(), "length")
        stopped = [*self._ended(sampled.token_ids, first), *self._watch(sampled, first)]
        reasons |= dict.fromkeys((s for s in stopped if slots.keeps_tokens(s)), "stop")
        for slot in (first + np.flatnonzero(~sampled.is_finite)).tolist():
            slots.sequences[slot].group.state.error = faults.numerical_error()
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

    def _finish(self, finished: list[int]) -> list[RequestState]:
        """Free the slots, given from the last to the first; give the requests that are complete."""
        states = []
        for slot in finished:
            sequence = self._slots.sequences[slot]
            self._slots.close(slot)
            last = self._slots.remove(slot)
            if last is not None:
                self._runner.copy(last, slot, int(self._slots.cached[slot]))
                self._sampler.move(last, slot)
            if stream := self._streams.pop(sequence, None):
                stream.finish()
            state = sequence.group.state
            state.num_open -= 1
            if not state.num_open:
                states.append(state)
        return states

    def _skipped(self, state: RequestState) -> Result:
        """Give the result of a request that needed no computation."""
        if self._listener and state.request.body.stream:
            for group in state.groups:
                for sequence in () if group.is_ranked else group.sequences:
                    ChoiceStream(sequence, self._tokenizer, self._listener).finish()
        return self._result(state)

    def _result(self, state: RequestState) -> Result:
        seconds = time.monotonic() - state.admitted
        if state.error is not None:
            return Result(state.request, (), Usage(0, 0, 0), state.error, seconds)
        for group in state.groups:
            self._weigh_suffix(group)
        choices = choices_of(state, self._tokenizer)
        if self._listener and state.request.body.stream:
            for choice in choices:
                if state.groups[choice.index // state.request.body.n].is_ranked:
                    self._listener(Delta(state.request, choice))
        return Result(state.request, choices, usage_of(state), None, seconds)

    def _weigh_suffix(self, group: SequenceGroup) -> None:
        """Score the candidates by the suffix if that is what it is for, and count the way."""
        is_resampled = len(group.suffix_token_ids) > 0
        if is_resampled and group.num_sequences > 1 and group.max_tokens:
            score_suffix(self._runner, len(self._slots), group, self._tokenizer)
        has_suffix = bool(group.state.request.body.suffix)
        self.statistics.suffixes_resampled += is_resampled
        self.statistics.suffixes_infilled += has_suffix and not is_resampled
