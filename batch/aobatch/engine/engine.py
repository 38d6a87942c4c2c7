"""The engine: requests in, results out, computed by lanes of continuous batching.

The caller's thread reads, tokenises and writes results; each lane's thread computes.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Self, TypeAlias, Unpack

import numpy as np

from aobatch.api.request import CompletionBody, Parameters, PromptLike, Request, requests_of
from aobatch.api.response import Usage
from aobatch.engine.choices import choices_of, usage_of
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.lane import Lane
from aobatch.engine.preparation import ModelLimits, Preparation
from aobatch.engine.scheduler import Scheduler, Window, ordered, slot_counts
from aobatch.engine.sequence import RequestState, Result, Sequence
from aobatch.engine.streaming import ChoiceStream, Delta, Listener
from aobatch.errors import JobError
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import ModelRunner
from aobatch.sampling.blocks import Blocks, BlocksOf
from aobatch.sampling.sampler import Sampler

NUM_KEPT = 512
"""Results that are remembered for requests still to come."""
MAX_CHARACTERS = 2**16
"""Requests with longer prompts are not remembered, so that memory is bounded."""
WATCH_SECONDS = 1.0
"""How often lanes are looked at that say nothing."""
END_SECONDS = 5.0
"""How long lanes may take to end; an operator cannot be broken off."""


@dataclass(frozen=True, slots=True)
class Joining:
    """Requests that join a run under way."""

    requests: tuple[Request, ...]


@dataclass(frozen=True, slots=True)
class Leaving:
    """A request that nobody wants any more."""

    request: Request


Event: TypeAlias = Sequence | Delta | BaseException | Joining | Leaving | None
"""What a lane tells: a sequence is finished, a piece is ready, it failed, or it wants more.

Or what another thread asks for.
"""


class Engine:
    """Computes requests with one model; each result depends on its request alone."""

    def __init__(
        self,
        runner: ModelRunner,
        tokenizer: Tokenizer,
        limits: ModelLimits,
        config: EngineConfig,
        blocks_of: BlocksOf = Blocks,
    ) -> None:
        """Take a model; other `blocks_of` are faster ones, which give the same bits."""
        self._counted: tuple[EngineStatistics, list[Lane]] = (EngineStatistics(), [])
        self._scheduler: Scheduler | None = None
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._tokenizer = tokenizer
        self._config = config
        if config.chat_format is not None:
            limits = replace(limits, chat_format=config.chat_format)
        self._limits = limits
        self._kv_bytes_per_token = runner.kv_bytes_per_token
        self._preparation = Preparation(tokenizer, limits, clamp_max_tokens=config.clamp_max_tokens)
        counts = slot_counts(config)
        self._runners = [runner, *(runner.sibling() for _ in counts[1:])]
        vocab_size, mode = limits.vocab_size, config.logprobs_mode
        self._samplers = [Sampler(count, vocab_size, mode, blocks_of) for count in counts]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the model and of the room for its keys and values."""
        self._runners, self._samplers = [], []

    @property
    def statistics(self) -> EngineStatistics:
        """Counts and seconds so far; any thread may ask, also while requests are computed."""
        counted, lanes = self._counted
        total = replace(counted)
        for lane in lanes:
            total.add(lane.statistics)
        return total

    @property
    def occupancy(self) -> tuple[int, int]:
        """How many sequences are in slots and how many wait for one; any thread may ask."""
        scheduler = self._scheduler
        return (scheduler.num_active, scheduler.num_waiting) if scheduler else (0, 0)

    def run(
        self, requests: Iterable[Request | None], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Compute requests, results in the order in which they finish.

        Requests are pulled as they are needed, at most `lookahead` prompts ahead. A None among
        them says that there are no more for now; whoever has more calls `wake`. One run at a time;
        closing the generator gives up what is in flight. The listener gets the pieces of requests
        that ask for a stream.
        """
        if not self._runners:
            message = "the engine is closed; open another one"
            raise JobError(message)
        events = self._events
        scheduler = Scheduler(self._config, self._kv_bytes_per_token, lambda: events.put(None))
        counted = self._counted[0]
        opened = OpenRequests(self._tokenizer, self._preparation, scheduler, listener, counted)
        window = Window(iter(requests), opened.admit, max(1, self._config.lookahead // 2))
        with self._lanes(scheduler, events) as lanes:
            while True:
                wants_more = (
                    scheduler.is_low and opened.coalescer.num_joined < self._config.lookahead
                )
                if wants_more and not window.has_read_all and not window.is_dry:
                    opened.start(window.read())
                    yield from opened.ready()
                elif opened.num_computing or window.is_dry:
                    event = self._next_event(events, lanes)
                    window.is_dry = False
                    yield from opened.take(event)
                else:
                    return

    def wake(self) -> None:
        """Ask again for requests after a None; any thread may call it."""
        self._events.put(None)

    def submit(self, requests: Iterable[Request]) -> None:
        """Let requests join the run under way, or the next one; any thread may call it.

        The run yields their results among the others, each with the very request it is of.
        """
        self._events.put(Joining(tuple(requests)))

    def cancel(self, request: Request) -> None:
        """Give up a request of the run under way, the very one; any thread may call it.

        Its slots are free within one step, and it has no result, unless that was complete before.
        """
        self._events.put(Leaving(request))

    def complete(
        self, prompts: PromptLike | Iterable[PromptLike], **parameters: Unpack[Parameters]
    ) -> list[Result]:
        """Compute a request for each prompt, results in the order of the prompts.

        A prompt is a text, token ids or the messages of a chat; the parameters are those of a
        request: max_tokens=64, temperature=0. RequestError says what is wrong with them; a prompt
        that the model cannot take has an error in its result.
        """
        results = self.run(requests_of(prompts, parameters))
        return sorted(results, key=lambda result: result.request.line)

    def _next_event(self, events: "SimpleQueue[Event]", lanes: list[Lane]) -> Event:
        """Wait for a lane; TimeoutError if the run that one is in takes too long."""
        limit = self._config.step_seconds
        while True:
            try:
                return events.get(timeout=min(limit, WATCH_SECONDS))
            except Empty:
                longest = max(lane.seconds_in_run for lane in lanes)
                if longest > limit:
                    message = f"a run of the model takes longer than {limit:g} seconds"
                    raise TimeoutError(message) from None

    @contextmanager
    def _lanes(self, scheduler: Scheduler, events: "SimpleQueue[Event]") -> Iterator[list[Lane]]:
        """Let the lanes work while the block runs; leaving it stops them within one step."""
        end_token_ids = np.array(self._limits.eos_token_ids, np.int64)
        both = zip(self._runners, self._samplers, strict=True)
        lanes = [
            Lane(
                index=index,
                runner=runner,
                sampler=sampler,
                scheduler=scheduler,
                tokenizer=self._tokenizer,
                end_token_ids=end_token_ids,
                config=self._config,
                emit=events.put,
            )
            for index, (runner, sampler) in enumerate(both)
        ]
        threads = [
            Thread(target=_work, args=(lane, events), name=f"lane-{index}", daemon=True)
            for index, lane in enumerate(lanes)
        ]
        started = time.perf_counter()
        self._counted, self._scheduler = (self._counted[0], lanes), scheduler
        for thread in threads:
            thread.start()
        try:
            yield lanes
        finally:
            # What lanes still say is nothing for the next run.
            self._events, self._scheduler = SimpleQueue(), None
            scheduler.close()
            with self._runners[0].interrupted():
                _join(threads)
            ended = self.statistics
            ended.run_seconds += time.perf_counter() - started
            self._counted = (ended, [])


class Coalescer:
    """Lets equal requests share one computation, while it goes on and for a time afterwards."""

    def __init__(self) -> None:
        self.num_joined = 0
        """Requests that wait for an equal one's result."""
        self._open: dict[CompletionBody, list[Request]] = {}
        """Those that wait, by what they have in common."""
        self._known: dict[CompletionBody, Result] = {}

    def find(self, request: Request) -> Result | None:
        """Find the result that a request shares with one before."""
        name = request.body.decision()
        known = None if name is None else self._known.get(name)
        return None if known is None else _shared(known, request)

    def join(self, request: Request) -> bool:
        """Say whether an equal request is being computed, whose result will serve this one too."""
        name = request.body.decision()
        # Whoever waits would wait for one that nobody waits for.
        if name is None or request.is_awaited:
            return False
        if name not in self._open:
            self._open[name] = []
            return False
        self._open[name].append(request)
        self.num_joined += 1
        return True

    def finish(self, result: Result) -> list[Result]:
        """Remember a result; return those of the requests that waited for it."""
        name = result.request.body.decision()
        if name is None:
            return []
        if result.error is None and sum(map(len, name.prompts)) <= MAX_CHARACTERS:
            self._known[name] = result
        if len(self._known) > NUM_KEPT:
            del self._known[next(iter(self._known))]
        followers = [] if result.request.is_awaited else self._open.pop(name)
        self.num_joined -= len(followers)
        return [_shared(result, request) for request in followers]

    def leave(self, request: Request) -> None:
        """Let a request go that may wait for an equal one."""
        name = request.body.decision()
        followers = self._open.get(name, []) if name else []
        for place in [i for i, other in enumerate(followers) if other is request]:
            del followers[place]
            self.num_joined -= 1

    def give_up(self, request: Request) -> Request | None:
        """Let a request go that is computed; give one that waits for it, to take its place."""
        name = request.body.decision()
        if name is None or request.is_awaited:
            return None
        if not self._open[name]:
            del self._open[name]
            return None
        self.num_joined -= 1
        return self._open[name].pop(0)


@dataclass(slots=True)
class OpenRequests:
    """All requests of a run that were read and not answered; the caller's thread's own."""

    tokenizer: Tokenizer
    preparation: Preparation
    scheduler: Scheduler
    listener: Listener | None
    statistics: EngineStatistics
    num_computing: int = 0
    """Requests that lanes have to compute."""
    coalescer: Coalescer = field(default_factory=Coalescer)
    answered: list[Result] = field(default_factory=list)
    """Results that were not yielded."""
    states: dict[int, RequestState] = field(default_factory=dict)
    """Those of requests that lanes have to compute, by the identity of the request."""

    def admit(self, request: Request) -> RequestState | None:
        """Prepare a request; None if it needs no computation or shares an equal one's."""
        self.statistics.requests_shaped += bool(request.body.shape)
        known = self.coalescer.find(request)
        if known or self.coalescer.join(request):
            self.statistics.requests_shared += 1
            self.answered += [known] if known else []
            return None
        state = self.preparation.prepare(request)
        if state.num_open:
            self.num_computing += 1
            self.states[id(request)] = state
            return state
        if self.listener and request.body.stream:
            for group in state.groups:
                for sequence in () if group.is_ranked else group.sequences:
                    ChoiceStream(sequence, self.tokenizer, self.listener).finish()
        self._answer(state)
        return None

    def take(self, event: Event) -> Iterator[Result]:
        """Take in what a lane tells; yield the results that it completes, raise its exception."""
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Delta) and self.listener:
            self.listener(event)
        if isinstance(event, Sequence):
            self._close(event.group.state, 1)
        if isinstance(event, Joining):
            self.start(filter(None, map(self.admit, event.requests)))
        if isinstance(event, Leaving):
            self._leave(event.request)
        yield from self.ready()

    def start(self, states: Iterable[RequestState]) -> None:
        """Let admitted requests wait for lanes."""
        self.scheduler.add(ordered([g for state in states for g in state.groups_to_compute]))

    def _close(self, state: RequestState, count: int) -> None:
        """Count sequences that lanes have done with; with the last one, answer the request."""
        state.num_open -= count
        if state.num_open:
            return
        self.num_computing -= 1
        if not state.is_cancelled:
            del self.states[id(state.request)]
            self._answer(state)

    def _leave(self, request: Request) -> None:
        """Give up a request, unless an equal one waits for its result."""
        state = self.states.pop(id(request), None)
        if state is None:
            self.coalescer.leave(request)
        elif heir := self.coalescer.give_up(request):
            # What decides the result is the same in both.
            state.request = heir
            self.states[id(heir)] = state
        else:
            state.is_cancelled = True
            self._close(state, self.scheduler.discard(state))

    def ready(self) -> Iterator[Result]:
        """Yield the results that are complete and were not yielded."""
        ready, self.answered = self.answered, []
        yield from ready

    def _answer(self, state: RequestState) -> None:
        result = self._result(state)
        self.answered += [result, *self.coalescer.finish(result)]

    def _result(self, state: RequestState) -> Result:
        ended = state.ended or time.monotonic()
        started = state.started or ended
        times = (ended - started, started - state.admitted)
        if state.error is not None:
            return Result(state.request, (), Usage(0, 0, 0), state.error, *times)
        body = state.request.body
        if body.suffix:
            num_resampled = sum(len(group.suffix_token_ids) > 0 for group in state.groups)
            self.statistics.suffixes_resampled += num_resampled
            self.statistics.suffixes_infilled += len(state.groups) - num_resampled
        choices = choices_of(state, self.tokenizer)
        if self.listener and body.stream:
            for choice in choices:
                if state.groups[choice.index // body.n].is_ranked:
                    self.listener(Delta(state.request, choice))
        return Result(state.request, choices, usage_of(state), None, *times)


def _shared(result: Result, request: Request) -> Result:
    """Give a request the result of an equal one, without any time in slots."""
    return replace(result, request=request, seconds=0.0, waited=0.0)


def _join(threads: list[Thread]) -> None:
    """Wait until lanes that were told to end have ended; JobError if one does not."""
    deadline = time.monotonic() + END_SECONDS
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            message = "the model hangs in one of its operators; run again to go on without it"
            raise JobError(message)


def _work(lane: Lane, events: "SimpleQueue[Event]") -> None:
    try:
        lane.work()
    except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
        events.put(error)
