"""The legacy logprobs arrays, written token by token."""

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from aobatch.api.response import Logprobs
from aobatch.arrays import Floats, TokenIds
from aobatch.engine.detokenizer import as_asked, offsets, token_name
from aobatch.engine.sequence import SequenceGroup

LOGPROB_OF_NOTHING = -9999.0
"""Stands for -inf, which JSON does not have."""

Top: TypeAlias = tuple[TokenIds, Floats]
"""The most probable ids and their logprobs, best first."""

NO_TOP: Top = (np.empty(0, np.int64), np.empty(0))


class Listing:
    """Collects tokens with their logprobs, alternatives and places."""

    def __init__(self, token_bytes: Sequence[bytes]) -> None:
        self._token_bytes = token_bytes
        self._arrays = Logprobs([], [], [], [])

    def __len__(self) -> int:
        return len(self._arrays.tokens)

    def add(self, token_id: int, logprob: float, top: Top, place: int) -> None:
        """List a token that begins at code point `place`; its own entry comes first in its map."""
        self._add(self._name(token_id), logprob, top, place)

    def _add(self, name: str, logprob: float, top: Top, place: int) -> None:
        arrays, logprob = self._arrays, _finite(logprob)
        ranked = {name: logprob}
        for other_id, other_logprob in zip(*top, strict=True):
            # Two ids with the same bytes share a key: the more probable comes first and stays.
            ranked.setdefault(self._name(int(other_id)), _finite(float(other_logprob)))
        arrays.tokens.append(name)
        arrays.token_logprobs.append(logprob)
        arrays.top_logprobs.append(ranked)
        arrays.text_offset.append(place)

    def add_prompt(self, group: SequenceGroup) -> None:
        """List the prompt that was asked for, its first token with null."""
        ids = group.echoed_token_ids
        if not len(ids):
            return
        tokens = as_asked([self._token_bytes[token_id] for token_id in ids], group.prompt_text)
        places = offsets(tokens, 0)
        self._arrays.tokens.append(token_name(tokens[0]))
        self._arrays.token_logprobs.append(None)
        self._arrays.top_logprobs.append(None)
        self._arrays.text_offset.append(0)
        for token, place, row in zip(tokens[1:], places[1:], _prompt_rows(group), strict=False):
            self._add(token_name(token), row[0], row[1], place)

    def take(self) -> Logprobs:
        """Give what was listed since the last call."""
        arrays, self._arrays = self._arrays, Logprobs([], [], [], [])
        return arrays

    def _name(self, token_id: int) -> str:
        return token_name(self._token_bytes[token_id])


def _prompt_rows(group: SequenceGroup) -> Iterable[tuple[float, Top]]:
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
