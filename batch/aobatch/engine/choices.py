"""Finished sequences as the choices and usage of a response."""

from collections.abc import Iterator
from itertools import chain
from typing import TypeAlias

import numpy as np

from aobatch.api.response import Choice, Logprobs, Usage
from aobatch.arrays import Floats, TokenIds
from aobatch.engine.detokenizer import as_asked, decode, offsets, token_name
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup
from aobatch.models.tokenizer import Tokenizer

LOGPROB_OF_NOTHING = -9999.0
"""Stands for -inf, which JSON does not have."""

Top: TypeAlias = tuple[TokenIds, Floats]
"""The most probable ids and their logprobs, best first."""

NO_TOP: Top = (np.empty(0, np.int64), np.empty(0))


class LogprobsBuilder:
    """Collects tokens with their logprobs, alternatives and places."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._arrays = Logprobs([], [], [], [])

    def __len__(self) -> int:
        return len(self._arrays.tokens)

    def add(self, token_id: int, logprob: float, top: Top, place: int) -> None:
        """List a token that begins at code point `place`; its own entry comes first in its map."""
        self._add(token_name(self._token_bytes[token_id]), place, (logprob, top))

    def add_prompt(self, group: SequenceGroup) -> None:
        """List the prompt that was asked for, its first token with null."""
        ids = group.echoed_token_ids
        tokens = as_asked([self._token_bytes[token_id] for token_id in ids], group.prompt_text)
        rows = chain([None], _prompt_rows(group))
        for token, place, row in zip(tokens, offsets(tokens, 0), rows, strict=False):
            self._add(token_name(token), place, row)

    def take(self) -> Logprobs:
        """Return what was listed since the last call."""
        arrays, self._arrays = self._arrays, Logprobs([], [], [], [])
        return arrays

    def _add(self, name: str, place: int, scored: tuple[float, Top] | None) -> None:
        logprob, ranked = None, None
        if scored is not None:
            logprob = _finite(scored[0])
            ranked = {name: logprob}
            for other_id, other_logprob in zip(*scored[1], strict=True):
                if other_logprob <= LOGPROB_OF_NOTHING:
                    break  # no further token was possible
                # Two ids with the same bytes share a key: the more probable comes first and stays.
                other = token_name(self._token_bytes[int(other_id)])
                ranked.setdefault(other, _finite(float(other_logprob)))
        self._arrays.tokens.append(name)
        self._arrays.token_logprobs.append(logprob)
        self._arrays.top_logprobs.append(ranked)
        self._arrays.text_offset.append(place)


def _prompt_rows(group: SequenceGroup) -> Iterator[tuple[float, Top]]:
    """Yield the scores of the echoed tokens but the first."""
    position = 0
    for scores in group.prompt_scores:
        for logprob, top_ids, top_logprobs in zip(*scores, strict=True):
            position += 1  # scores begin with the second token that the model read
            if position > group.num_added:
                yield float(logprob), (top_ids, top_logprobs)


def _finite(logprob: float) -> float:
    """Round to six digits behind the point, and replace what JSON cannot hold."""
    return round(logprob, 6) + 0.0 if logprob > LOGPROB_OF_NOTHING else LOGPROB_OF_NOTHING


def choices_of(state: RequestState, tokenizer: Tokenizer) -> tuple[Choice, ...]:
    """Write the n best choices of every prompt, in the order of prompts and rank."""
    num_choices = state.request.body.n
    return tuple(
        choice_of(sequence, group.index * num_choices + rank, tokenizer)
        for group in state.groups
        for rank, sequence in enumerate(_ranked(group)[:num_choices])
    )


def usage_of(state: RequestState) -> Usage:
    """Count prompts once, and every token that was sampled for any candidate."""
    prompt_tokens = sum(len(group.prompt_token_ids) for group in state.groups)
    completion_tokens = sum(
        len(sequence.token_ids) for group in state.groups for sequence in group.candidates
    )
    return Usage(prompt_tokens, completion_tokens, prompt_tokens + completion_tokens)


def choice_of(sequence: Sequence, index: int, tokenizer: Tokenizer) -> Choice:
    """Write one finished sequence as a choice."""
    group, body = sequence.group, sequence.group.body
    tokens = [tokenizer.token_bytes[token_id] for token_id in sequence.text_token_ids]
    cut = sequence.watcher.cut if sequence.watcher else None
    text = decode(tokens)[:cut]
    logprobs = None
    if body.logprobs is not None:
        builder = LogprobsBuilder(tokenizer)
        if body.echo:
            builder.add_prompt(group)
        _add_completion(builder, sequence, tokens, cut)
        logprobs = builder.take()
    return Choice(body.echo * group.prompt_text + text, index, logprobs, sequence.finish_reason)


def _add_completion(
    builder: LogprobsBuilder, sequence: Sequence, tokens: list[bytes], cut: int | None
) -> None:
    """List the tokens up to and including the one in which the text ends, and the end token.

    That one is in no text; without it, how many tokens are listed would depend on what was drawn.
    """
    start = len(sequence.group.prompt_text)
    places = offsets(tokens, start)
    if sequence.ends_with_token:
        places.append(start + len(decode(tokens)))
    for position, place in enumerate(places):
        if cut is not None and position and place > start + cut:
            break
        top = sequence.tops[position] if sequence.tops else NO_TOP
        token_id = int(sequence.token_ids[position])
        builder.add(token_id, float(sequence.logprobs[position]), top, place)


def _ranked(group: SequenceGroup) -> list[Sequence]:
    """Order candidates, the best first, where more were made than are returned.

    By the suffix's logprob where that decides, else by mean raw logprob a token.
    """
    if not group.is_ranked:
        return group.candidates
    return sorted(group.candidates, key=lambda sequence: -_worth(sequence))


def _worth(sequence: Sequence) -> float:
    if sequence.suffix_logprob is not None:
        return sequence.suffix_logprob
    return float(sequence.logprobs.mean()) if len(sequence.logprobs) else 0.0
