"""The parameters and the history of all slots as columns, one row a slot."""

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import TokenIds
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.rows import add_rows
from aobatch.sampling.token_lists import TokenLists

ROW = np.dtype(
    [
        ("temperature", np.float64),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("repetition_penalty", np.float64),
        ("frequency_penalty", np.float64),
        ("presence_penalty", np.float64),
        ("num_logprobs", np.int64),
        ("min_tokens", np.int64),
        ("num_generated", np.int64),
        ("is_drawn", np.bool_),
        ("is_filtered", np.bool_),
        ("is_penalised", np.bool_),
        ("is_scored", np.bool_),
    ]
)

Rows = NDArray[np.void]
"""Rows of the table, of type ROW; one of zeros is greedy and asks for nothing."""


class Columns:
    """Keep what each slot's sequence asked for and what it has generated."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.table: Rows = np.zeros(num_slots, dtype=ROW)
        self.bias = TokenLists(num_slots)
        self.ends = TokenLists(num_slots)
        self.seen = TokenLists(num_slots)

    def admit(self, slot: int, params: SamplingParams, prompt_token_ids: TokenIds) -> None:
        """Begin a sequence in a slot."""
        row = self._row(params)
        self.table[slot] = row
        bias = dict(params.logit_bias)
        self.bias.assign(slot, _ids(bias), np.array(list(bias.values()), dtype=np.float64))
        ends = params.end_token_ids if params.min_tokens > 0 else ()
        self.ends.assign(slot, _ids(dict.fromkeys(ends)), 0.0)
        # Only the repetition penalty looks at the prompt, whose tokens count as seen 0 times.
        is_repetition = params.repetition_penalty != 1.0
        prompt = np.unique(prompt_token_ids) if is_repetition else prompt_token_ids[:0]
        self.seen.assign(slot, prompt, 0.0)

    def move(self, source: int, target: int) -> None:
        """Copy the sequence of slot source over slot target."""
        self.table[target] = self.table[source]
        for lists in (self.bias, self.ends, self.seen):
            lists.move(source, target)

    def resize(self, num_slots: int) -> None:
        """Make room for more slots."""
        self.table = add_rows(self.table, num_slots)
        for lists in (self.bias, self.ends, self.seen):
            lists.resize(num_slots)

    def record(self, slots: slice, token_ids: TokenIds) -> None:
        """Take note of the token that each slot got, [B]."""
        rows = self.table[slots]
        rows["num_generated"] += 1
        penalised = np.flatnonzero(rows["is_penalised"])
        if penalised.size:
            self.seen.count(penalised + slots.start, token_ids[penalised])

    def _row(self, params: SamplingParams) -> Rows:
        row = np.zeros((), dtype=ROW)
        for name in ("temperature", "top_p", "min_p", "min_tokens"):
            row[name] = getattr(params, name)
        penalties = ("repetition_penalty", "frequency_penalty", "presence_penalty")
        for name in penalties:
            row[name] = getattr(params, name)
        row["top_k"] = params.top_k if 0 < params.top_k < self._vocab_size else self._vocab_size
        row["is_scored"] = params.num_logprobs is not None
        row["num_logprobs"] = params.num_logprobs or 0
        row["is_drawn"] = not params.is_greedy
        is_narrowed = row["top_k"] < self._vocab_size or row["top_p"] < 1 or row["min_p"] > 0
        row["is_filtered"] = row["is_drawn"] and is_narrowed
        row["is_penalised"] = [row[name] for name in penalties] != [1.0, 0.0, 0.0]
        return row


def _ids(ids: dict[int, float] | dict[int, None]) -> TokenIds:
    return np.fromiter(ids, dtype=np.int64, count=len(ids))
