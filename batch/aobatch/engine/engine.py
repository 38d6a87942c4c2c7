"""The engine: requests in, results out, computed by lanes of continuous batching.

The caller's thread reads, tokenises and writes results; each lane's thread computes.
"""

import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Thread
from typing import TypeAlias

import numpy as np

from aobatch.api.request import PromptLike, Request, requests_of
from aobatch.engine.config import EngineConfig, EngineStatistics
from aobatch.engine.lane import Lane, LaneParts
from aobatch.engine.preparation import ModelLimits, Preparation
from aobatch.engine.result import Result
from aobatch.engine.results import Results
from aobatch.engine.scheduler import Scheduler, slot_counts
from aobatch.engine.sequence import Sequence
from aobatch.engine.streaming import Delta, Listener
from aobatch.engine.window import Window, ordered
from aobatch.errors import JobError
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import ModelRunner
from aobatch.runners.lanes import with_siblings
from aobatch.sampling.sampler import Sampler

WATCH_SECONDS = 1.0
"""How often lanes are looked at that say nothing."""
END_SECONDS = 5.0
"""How long lanes may take to end; an operator cannot be broken off."""

Event: TypeAlias = Sequence | Delta | BaseException | None
"""What a lane tells: a sequence is finished, a piece is ready, it failed, or it wants more."""


class Engine:
    """Computes requests with one model; each result depends on its request alone."""

    def __init__(
        self, runner: ModelRunner, tokenizer: Tokenizer, limits: ModelLimits, config: EngineConfig
    ) -> None:
        self._counted: tuple[EngineStatistics, list[Lane]] = (EngineStatistics(), [])
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._tokenizer = tokenizer
        self._config = config
        self._limits = limits
        self._kv_bytes_per_token = runner.kv_bytes_per_token
        self._preparation = Preparation(tokenizer, limits, clamp_max_tokens=config.clamp_max_tokens)
        counts = slot_counts(config)
        self._runners = with_siblings(runner, len(counts))
        self._samplers = [Sampler(n, limits.vocab_size, config.logprobs_mode) for n in counts]

    @property
    def statistics(self) -> EngineStatistics:
        """Counts and seconds so far; any thread may ask, also while requests are computed."""
        counted, lanes = self._counted
        total = replace(counted)
        for lane in lanes:
            total.add(lane.statistics)
        return total

    def run(
        self, requests: Iterable[Request | None], listener: Listener | None = None
    ) -> Generator[Result, None, None]:
        """Compute requests, results in the order in which they finish.

        Requests are pulled as they are needed, at most `lookahead` prompts ahead. A None among
        them says that there are no more for now; whoever has more calls `wake`. One run at a time;
        closing the generator gives up what is in flight. The listener gets the pieces of requests
        that ask for a stream.
        """
        events = self._events = SimpleQueue()
        scheduler = Scheduler(self._config, self._kv_bytes_per_token, lambda: events.put(None))
        results = Results(self._tokenizer, self._preparation, listener, self._counted[0])
        window = Window(iter(requests), results.admit, max(1, self._config.lookahead // 2))
        with self._lanes(scheduler, events) as lanes:
            while True:
                wants_more = scheduler.is_low and results.num_joined < self._config.lookahead
                if wants_more and not window.has_read_all and not window.is_dry:
                    states = window.read()
                    scheduler.add(ordered([g for state in states for g in state.groups_to_compute]))
                    yield from results.ready()
                elif results.num_open or window.is_dry:
                    event = self._next_event(events, lanes)
                    window.is_dry = False
                    yield from results.take(event)
                else:
                    return

    def wake(self) -> None:
        """Ask again for requests after a None; any thread may call it."""
        self._events.put(None)

    def complete(self, prompts: Iterable[PromptLike], **parameters: object) -> list[Result]:
        """Compute a request for each prompt, results in the order of the prompts.

        A prompt is a text or token ids, the parameters are those of a request: max_tokens=64,
        temperature=0. RequestError says what is wrong with them; a prompt that the model cannot
        take has an error in its result.
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
        parts = LaneParts(
            scheduler,
            self._tokenizer,
            np.array(self._limits.eos_token_ids, np.int64),
            self._config,
            events.put,
        )
        both = zip(self._runners, self._samplers, strict=True)
        lanes = [Lane(index, *pair, parts) for index, pair in enumerate(both)]
        threads = [
            Thread(target=_work, args=(lane, events), name=f"lane-{index}", daemon=True)
            for index, lane in enumerate(lanes)
        ]
        started = time.perf_counter()
        self._counted = (self._counted[0], lanes)
        for thread in threads:
            thread.start()
        try:
            yield lanes
        finally:
            scheduler.close()
            with self._runners[0].interrupted():
                _join(threads)
            ended = self.statistics
            ended.run_seconds += time.perf_counter() - started
            self._counted = (ended, [])


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
