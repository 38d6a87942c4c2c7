"""What is computed: a request's prompts, and the candidates that continue them."""

import time
from dataclasses import dataclass, field

import numpy as np

from aobatch.api.request import CompletionBody, Request
from aobatch.api.response import Choice, Usage
from aobatch.arrays import Floats, TokenIds
from aobatch.engine.detokenizer import Detokenizer
from aobatch.errors import RequestError
from aobatch.sampling.logprobs import Scores
from aobatch.sampling.params import SamplingParams
from aobatch.shapes.matching import Matcher


@dataclass(frozen=True, slots=True)
class Result:
    """The choices of a finished request, or the error that it ended with."""

    request: Request
    choices: tuple[Choice, ...]
    usage: Usage
    error: RequestError | None
    seconds: float
    """In slots, from the prompt's first step to the last token; 0 if another's result serves."""
    waited: float = 0.0
    """From admission to that first step."""

    @property
    def text(self) -> str:
        """The text of the first choice; raises the error, if it ended with one."""
        if self.error is not None:
            raise self.error
        return self.choices[0].text


class StopWatcher:
    """Finds the first stop string in a completion; it may begin and end inside tokens."""

    def __init__(self, stop: tuple[str, ...], min_tokens: int = 0) -> None:
        self._stop = stop
        self._min_tokens = min_tokens
        self._reach = max(map(len, stop)) - 1
        self._detokenizer = Detokenizer()
        self._num_tokens = 0
        self.text = ""
        """What was generated so far."""
        self._searched_from = 0
        self.cut: int | None = None
        """Where the text ends, in code points, once a stop was found."""

    def push(self, token: bytes) -> bool:
        """Take in a token; say whether the text ends in it."""
        self._num_tokens += 1
        start = max(self._searched_from, len(self.text) - self._reach)
        self.text += self._detokenizer.push(token)
        if self._num_tokens < self._min_tokens:
            # Text from before the minimum cannot stop it, not even in part.
            self._searched_from = len(self.text)
            return False
        found = [self.text.find(string, start) for string in self._stop]
        self.cut = min((place for place in found if place >= 0), default=None)
        return self.cut is not None

    def num_held_back(self) -> int:
        """Count the last code points that may be the beginning of a stop."""
        tail = self.text[max(self._searched_from, len(self.text) - self._reach) :]
        starts = (i for i in range(len(tail)) if any(s.startswith(tail[i:]) for s in self._stop))
        return len(tail) - next(starts, len(tail))


@dataclass(slots=True, eq=False)
class RequestState:
    """One request on its way: done when all its groups are."""

    request: Request
    num_open: int = 0
    """Sequences that have not finished."""
    groups: "list[SequenceGroup]" = field(default_factory=list)
    error: RequestError | None = None
    is_cancelled: bool = False
    """Whether nobody wants it any more; lanes look at each step."""
    admitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    """When the first sequence got a slot."""
    ended: float | None = None
    """When the last one so far left it."""

    @property
    def groups_to_compute(self) -> "list[SequenceGroup]":
        """Those that ask for tokens or for the prompt's logprobs."""
        return [group for group in self.groups if group.needs_model]


@dataclass(slots=True, eq=False)
class SequenceGroup:
    """One prompt and the sequences that continue it."""

    state: RequestState
    index: int
    """Which of the request's prompts."""
    prompt_text: str
    prompt_token_ids: TokenIds
    num_added: int
    """Leading tokens that the request did not write: a document start."""
    params: SamplingParams
    max_tokens: int
    num_sequences: int
    suffix_token_ids: TokenIds
    """What the candidates are ranked by; empty if there is no suffix, or infill tokens hold it."""
    num_echoed: int
    """Tokens of the prompt text, behind the added ones."""
    matcher: Matcher | None = None
    """Of the shape that each answer is to have, at its beginning."""
    sequences: "list[Sequence]" = field(default_factory=list)
    """Those that were started, by candidate."""
    prompt_scores: list[Scores] = field(default_factory=list)
    """Of each chunk's tokens, where the prompt's logprobs are asked for."""

    @property
    def body(self) -> CompletionBody:
        """What the request asks for."""
        return self.state.request.body

    @property
    def scores_prompt(self) -> bool:
        """Whether the response lists the prompt's logprobs."""
        return self.body.echo and self.body.logprobs is not None

    @property
    def needs_model(self) -> bool:
        """Whether it asks for tokens or for the prompt's logprobs."""
        return self.max_tokens > 0 or self.scores_prompt

    @property
    def num_tokens_at_most(self) -> int:
        """Tokens that a slot must have room for."""
        return len(self.prompt_token_ids) + self.max_tokens + len(self.suffix_token_ids)

    @property
    def echoed_token_ids(self) -> TokenIds:
        """The tokens of the prompt text."""
        return self.prompt_token_ids[self.num_added : self.num_added + self.num_echoed]

    @property
    def is_ranked(self) -> bool:
        """Whether the best candidates come first: more are computed, or it is asked for."""
        return self.num_sequences > self.body.n or (self.num_sequences > 1 and self.body.is_ranked)

    @property
    def is_started(self) -> bool:
        """Whether all its sequences have begun."""
        return len(self.sequences) == self.num_sequences

    @property
    def ranks_by_suffix(self) -> bool:
        """Whether the suffix chooses among the candidates."""
        return len(self.suffix_token_ids) > 0 and self.num_sequences > 1 and self.max_tokens > 0

    @property
    def num_copies(self) -> int:
        """How many equal candidates each sequence stands for."""
        return self.body.best_of if self.params.is_greedy else 1

    @property
    def candidates(self) -> "list[Sequence]":
        """All candidates; a greedy sequence stands for each, since all are equal."""
        return self.sequences * self.num_copies

    def start_sequence(self) -> "Sequence":
        """Begin the next candidate."""
        stop = self.body.stop
        watcher = StopWatcher(stop, self.params.min_tokens) if stop else None
        matcher = self.matcher.deep_copy() if self.matcher and self.max_tokens else None
        sequence = Sequence(self, len(self.sequences), watcher, matcher)
        self.sequences.append(sequence)
        return sequence


@dataclass(slots=True, eq=False)
class Sequence:
    """One candidate continuation of a prompt."""

    group: SequenceGroup
    candidate: int
    watcher: StopWatcher | None
    """Looks for stop strings; None if there are none."""
    matcher: Matcher | None = None
    """Holds it to the shape of the answer; None if it is free, or has finished."""
    tops: list[tuple[TokenIds, Floats]] = field(default_factory=list)
    """The most probable ids and their logprobs, a pair for each token, where they are asked for."""
    token_ids: TokenIds = field(default_factory=lambda: np.empty(0, np.int64))
    """All sampled tokens [N], an end token included; filled in when the sequence finishes."""
    logprobs: Floats = field(default_factory=lambda: np.empty(0))
    suffix_logprob: float | None = None
    """Of the suffix behind it, where that ranks the candidates."""
    finish_reason: str | None = None
    ends_with_token: bool = False
    """Whether the last token is an end token, which is not part of the text."""

    @property
    def is_watched(self) -> bool:
        """Whether each token must be looked at as it comes."""
        body = self.group.body
        return bool(self.watcher or body.logprobs or body.stop_token_ids or body.stream)

    @property
    def text_token_ids(self) -> TokenIds:
        """The sampled tokens without the end token."""
        return self.token_ids[: len(self.token_ids) - self.ends_with_token]
