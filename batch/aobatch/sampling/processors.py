"""What changes single logits before the choice, one pure function a parameter."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Columns, Entries, Table

Processor = Callable[[Floats, Entries, Table], Floats]
"""New logits [M] from the logits [M] of listed tokens, their entries and the table's rows [B]."""


def add_logit_bias(logits: Floats, bias: Entries, _: Table) -> Floats:
    """Add the bias of the token."""
    return np.asarray(logits + bias.values)


def ban(logits: Floats, _: Entries, __: Table) -> Floats:
    """Make a token impossible."""
    return np.full_like(logits, -np.inf)


def penalise_repetition(logits: Floats, seen: Entries, table: Table) -> Floats:
    """Move a seen token towards the improbable by a factor (Keskar et al. 2019, CTRL, 4.1)."""
    penalty = table["repetition_penalty"][seen.rows]
    return np.asarray(np.where(logits < 0, logits * penalty, logits / penalty))


def penalise_frequency(logits: Floats, seen: Entries, table: Table) -> Floats:
    """Take the penalty off once for each time the token was generated."""
    return np.asarray(logits - seen.values * table["frequency_penalty"][seen.rows])


def penalise_presence(logits: Floats, seen: Entries, table: Table) -> Floats:
    """Take the penalty off once if the token was generated at all."""
    return np.asarray(logits - (seen.values > 0) * table["presence_penalty"][seen.rows])


PROCESSORS: Final[Mapping[str, tuple[Processor, ...]]] = {
    "bias": (add_logit_bias,),
    "ends": (ban,),
    "seen": (penalise_repetition, penalise_frequency, penalise_presence),
}
"""The order: lists of `Columns` from first to last, and what is done to the tokens on each."""


@dataclass(frozen=True, slots=True)
class Edits:
    """The logits that were changed, with what they were, so that they can be put back."""

    rows: TokenIds
    ids: TokenIds
    before: Logits

    def undo(self, logits: Logits) -> None:
        """Put the raw logits [B, V] back, in place."""
        logits[self.rows, self.ids] = self.before


def process(logits: Logits, columns: Columns, slots: slice) -> Edits:
    """Apply bias, bans and penalties to the logits [B, V] of the slots, in place."""
    table = columns.table[slots]
    is_banned = table["num_generated"] < table["min_tokens"]
    lists = {
        "bias": columns.bias.entries(slots),
        "ends": columns.ends.entries(slots, is_banned),
        "seen": columns.seen.entries(slots),
    }
    rows = np.concatenate([entries.rows for entries in lists.values()])
    ids = np.concatenate([entries.ids for entries in lists.values()])
    edits = Edits(rows, ids, logits[rows, ids])
    for name, processors in PROCESSORS.items():
        entries = lists[name]
        if not entries.rows.size:
            continue
        values = logits[entries.rows, entries.ids].astype(np.float64)
        for processor in processors:
            values = processor(values, entries, table)
        logits[entries.rows, entries.ids] = values
    return edits


class Masks(NamedTuple):
    """Which tokens some rows of a step may choose, whatever their logits say."""

    rows: TokenIds
    """Rows of the step, [M], rising; all others may choose any token."""
    bits: NDArray[np.uint32]
    """Token 32 w + b is allowed if bit b of word w is set, [M, ceil(V / 32)], row after row."""

    def allow(self, places: TokenIds, token_ids: TokenIds) -> NDArray[np.bool_]:
        """Say which tokens the masks at places allow; both are broadcast against each other."""
        # Behind the vocabulary's end there is nothing to forbid.
        words = self.bits[places, np.minimum(token_ids // 32, self.bits.shape[1] - 1)]
        return np.asarray(words >> (token_ids % 32).astype(np.uint32) & 1, dtype=np.bool_)
