"""Short lists of token ids, each with a number, one list a slot."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, TokenIds
from aobatch.sampling.rows import add_rows

NO_TOKEN = -1
"""Fills the unused end of a list: no token has this id."""


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of some slots' lists, one after the other."""

    rows: TokenIds
    """Which of the asked slots an entry belongs to, [M], rising."""

    ids: TokenIds
    """Token ids, [M], each once in a row."""

    values: Floats
    """The number of each, [M]."""


class TokenLists:
    """Hold for every slot the ids that matter to it, as arrays as wide as the longest list."""

    def __init__(self, num_slots: int) -> None:
        self._ids = np.full((num_slots, 1), NO_TOKEN, dtype=np.int64)
        self._values = np.zeros((num_slots, 1))
        self._lengths = np.zeros(num_slots, dtype=np.int64)

    def assign(self, slot: int, ids: TokenIds, values: Floats | float) -> None:
        """Replace the list of a slot; ids are distinct."""
        self._widen(len(ids))
        self._ids[slot] = NO_TOKEN
        self._ids[slot, : len(ids)] = ids
        self._values[slot, : len(ids)] = values
        self._lengths[slot] = len(ids)

    def move(self, source: int, target: int) -> None:
        """Copy the list of slot source over the one of slot target."""
        for array in (self._ids, self._values, self._lengths):
            array[target] = array[source]

    def resize(self, num_slots: int) -> None:
        """Make room for more slots, whose lists are empty."""
        self._ids = add_rows(self._ids, num_slots, fill=NO_TOKEN)
        self._values = add_rows(self._values, num_slots)
        self._lengths = add_rows(self._lengths, num_slots)

    def entries(self, slots: slice, wanted: NDArray[np.bool_] | None = None) -> Entries:
        """Give all entries of the slots, or of those that are wanted, [num_slots]."""
        lengths = self._lengths[slots] if wanted is None else self._lengths[slots] * wanted
        width = int(lengths.max(initial=0))
        rows, places = np.nonzero(np.arange(width) < lengths[:, None])
        picked = rows + slots.start, places
        return Entries(rows, self._ids[picked], self._values[picked])

    def count(self, slots: TokenIds, token_ids: TokenIds) -> None:
        """Add one to the number of token_ids[i] in the list of slots[i]; a new id joins with 1."""
        lengths = self._lengths[slots]
        is_known = self._ids[slots, : lengths.max(initial=0) + 1] == token_ids[:, None]
        found = is_known.any(axis=1)
        places = np.where(found, is_known.argmax(axis=1), lengths)
        self._widen(int(places.max(initial=0)) + 1)
        self._ids[slots, places] = token_ids
        self._values[slots, places] = np.where(found, self._values[slots, places], 0) + 1
        self._lengths[slots] += ~found

    def _widen(self, width: int) -> None:
        extra = max(width, 2 * self._ids.shape[1]) - self._ids.shape[1]
        if width > self._ids.shape[1]:
            self._ids = np.pad(self._ids, ((0, 0), (0, extra)), constant_values=NO_TOKEN)
            self._values = np.pad(self._values, ((0, 0), (0, extra)))
