"""Requests under way, counted down as their sequences finish, and written as results."""

import time
from collections.abc import Iterator

from aobatch.api.request import Request
from aobatch.api.response import Usage
from aobatch.engine.choices import choices_of, usage_of
from aobatch.engine.config import EngineStatistics
from aobatch.engine.equals import Equals
from aobatch.engine.preparation import Preparation
from aobatch.engine.result import Result
from aobatch.engine.sequence import RequestState, Sequence
from aobatch.engine.streaming import ChoiceStream, Delta, Listener
from aobatch.models.tokenizer import Tokenizer


class Results:
    """Knows all requests of a run that were read and not answered; the caller's thread's own."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        preparation: Preparation,
        listener: Listener | None,
        statistics: EngineStatistics,
    ) -> None:
        self.num_open = 0
        """Requests that lanes have to compute."""
        self._tokenizer = tokenizer
        self._preparation = preparation
        self._listener = listener
        self._statistics = statistics
        self._equals = Equals()
        self._ready: list[Result] = []

    @property
    def num_joined(self) -> int:
        """Requests that wait for the result of an equal one."""
        return self._equals.num_joined

    def admit(self, request: Request) -> RequestState | None:
        """Prepare a request; None if it needs no computation or shares an equal one's."""
        if known := self._equals.find(request):
            self._statistics.requests_shared += 1
            self._ready.append(known)
            return None
        if self._equals.join(request):
            self._statistics.requests_shared += 1
            return None
        state = self._preparation.prepare(request)
        if state.num_open:
            self.num_open += 1
            return state
        self._stream_skipped(state)
        self._answer(state)
        return None

    def take(self, event: Sequence | Delta | BaseException | None) -> Iterator[Result]:
        """Take in what a lane tells; yield the results that it completes, raise its exception."""
        if isinstance(event, BaseException):
            raise event
        if isinstance(event, Delta) and self._listener:
            self._listener(event)
        if isinstance(event, Sequence):
            state = event.group.state
            state.num_open -= 1
            if not state.num_open:
                self.num_open -= 1
                self._answer(state)
        yield from self.ready()

    def ready(self) -> Iterator[Result]:
        """Yield the results that are complete and were not yielded."""
        ready, self._ready = self._ready, []
        yield from ready

    def _answer(self, state: RequestState) -> None:
        result = self._result(state)
        self._ready += [result, *self._equals.finish(result)]

    def _result(self, state: RequestState) -> Result:
        seconds = time.monotonic() - state.admitted
        if state.error is not None:
            return Result(state.request, (), Usage(0, 0, 0), state.error, seconds)
        self._count_suffixes(state)
        choices = choices_of(state, self._tokenizer)
        if self._listener and state.request.body.stream:
            for choice in choices:
                if state.groups[choice.index // state.request.body.n].is_ranked:
                    self._listener(Delta(state.request, choice))
        return Result(state.request, choices, usage_of(state), None, seconds)

    def _stream_skipped(self, state: RequestState) -> None:
        """Send the streams of a request that needed no computation."""
        if self._listener and state.request.body.stream:
            for group in state.groups:
                for sequence in () if group.is_ranked else group.sequences:
                    ChoiceStream(sequence, self._tokenizer, self._listener).finish()

    def _count_suffixes(self, state: RequestState) -> None:
        if state.request.body.suffix:
            is_resampled = [len(group.suffix_token_ids) > 0 for group in state.groups]
            self._statistics.suffixes_resampled += sum(is_resampled)
            self._statistics.suffixes_infilled += len(is_resampled) - sum(is_resampled)
