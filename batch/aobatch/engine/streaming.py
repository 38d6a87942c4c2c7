"""A sequence as a stream: pieces of its choices, sent as soon as no stop can take them back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from aobatch.api.request import Request
from aobatch.api.response import Choice, Logprobs
from aobatch.engine.choices import LogprobsBuilder, Top, choice_of
from aobatch.engine.detokenizer import Detokenizer
from aobatch.engine.sequence import Sequence
from aobatch.models.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of one choice; the pieces joined are the choice."""

    request: Request
    choice: Choice


Listener: TypeAlias = Callable[[Delta], None]


class ChoiceStream:
    """Sends one sequence, which may stand for several equal choices."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer, listener: Listener) -> None:
        group = sequence.group
        self._sequence = sequence
        self._tokenizer = tokenizer
        self._listener = listener
        self._body = group.body
        self._detokenizer = Detokenizer()
        self._echo = self._body.echo * group.prompt_text
        self._text = ""
        self._num_sent = 0
        self._num_listed = 0
        self._pending: list[tuple[int, float, Top, int]] = []

    def push(self, token_id: int, logprob: float, top: Top) -> None:
        """Take in a token that did not end the sequence, and send what is certain."""
        token = self._tokenizer.token_bytes[token_id]
        start = len(self._sequence.group.prompt_text) + len(self._text)
        place = start + self._detokenizer.gap(token)
        self._text += self._detokenizer.push(token)
        self._pending.append((token_id, logprob, top, place))
        watcher = self._sequence.watcher
        certain = len(self._text) - (0 if watcher is None else watcher.num_held_back())
        text = (self._echo + self._text)[self._num_sent : len(self._echo) + certain]
        if text:
            self._send(text, self._list_certain(certain), None)

    def finish(self) -> None:
        """Send what is left of the finished sequence, with its reason."""
        choice = choice_of(self._sequence, 0, self._tokenizer)
        left = choice.logprobs and choice.logprobs.behind(self._num_listed)
        self._send(choice.text[self._num_sent :], left, choice.finish_reason)

    def _list_certain(self, certain: int) -> Logprobs | None:
        """List the tokens that lie within the certain text."""
        if self._body.logprobs is None:
            return None
        builder = LogprobsBuilder(self._tokenizer)
        if self._echo and not self._num_listed:
            builder.add_prompt(self._sequence.group)
        start = len(self._sequence.group.prompt_text)
        while self._pending:
            ends = self._pending[1][3] if len(self._pending) > 1 else start + len(self._text)
            if ends > start + certain:
                break
            builder.add(*self._pending.pop(0))
        self._num_listed += len(builder)
        return builder.take()

    def _send(self, text: str, logprobs: Logprobs | None, finish_reason: str | None) -> None:
        self._num_sent += len(text)
        group = self._sequence.group
        first = group.index * self._body.n + self._sequence.candidate
        for index in range(first, first + (self._body.n if group.num_copies > 1 else 1)):
            choice = Choice(text, index, logprobs, finish_reason)
            self._listener(Delta(group.state.request, choice))
