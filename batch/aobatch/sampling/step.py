"""One step of some slots: from raw logits to the distribution that is drawn from."""

from functools import cached_property

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Columns
from aobatch.sampling.draw import draw_from_all, draw_from_heads
from aobatch.sampling.field import Field, gather
from aobatch.sampling.filters import filtered
from aobatch.sampling.heads import Heads
from aobatch.sampling.processors import process
from aobatch.sampling.rows import take_rows


class Step:
    """Process the logits [B, V] of neighbouring slots, in place, and sort out who is drawn how."""

    def __init__(self, logits: Logits, columns: Columns, slots: slice) -> None:
        self._logits = logits
        self._table = columns.table[slots]
        self._best = logits.argmax(axis=1)
        # A NaN or +inf is its row's maximum, and so is -inf where there is nothing else.
        self.is_finite = np.isfinite(self._at(self._best))
        self._edits = process(logits, columns, slots)
        edited = np.flatnonzero(np.bincount(self._edits.rows))
        self._best[edited] = take_rows(logits, edited).argmax(axis=1)
        self._peaks = self._at(self._best)
        # Bans can leave a row nothing; then its best token is id 0.
        self.is_possible = self.is_finite & np.isfinite(self._peaks)

        is_drawn = self.is_possible & self._table["is_drawn"]
        self.drawn = np.flatnonzero(is_drawn)
        self._whole = np.flatnonzero(is_drawn & ~self._table["is_filtered"])
        self._narrow = np.flatnonzero(is_drawn & self._table["is_filtered"])

    def choose(self, uniforms: Floats) -> TokenIds:
        """Give each row's token [B]: the best one, or where drawn, by its uniform [B]."""
        token_ids = self._best.copy()
        if self._whole.size:
            token_ids[self._whole] = draw_from_all(self._whole_field, uniforms[self._whole])
        for rows, heads in self._heads:
            token_ids[rows] = draw_from_heads(heads, uniforms[rows])
        return np.asarray(token_ids)

    def distribution(self, rows: TokenIds) -> Logits:
        """Give log-weights [n, V] of the distributions from which some rows' tokens come.

        A greedy row's are its processed logits, as no temperature divides them.
        """
        places = np.full(len(self._logits), -1)
        places[rows] = np.arange(len(rows))
        weights = np.take(self._logits, rows, axis=0)
        whole = self._whole[places[self._whole] >= 0]
        if whole.size:
            gaps = weights[places[whole]] - self._peaks[whole, None]
            weights[places[whole]] = gaps / self._table["temperature"][whole, None]
        weights[np.isin(rows, self._narrow)] = -np.inf
        for group, heads in self._heads:
            targets = heads.spread(places[group])
            wanted = targets >= 0
            weights[targets[wanted], heads.ids[wanted]] = -heads.depths[wanted]
        return weights

    def undo(self) -> Logits:
        """Put the raw logits [B, V] back; what is drawn must be drawn before."""
        self._edits.undo(self._logits)
        return self._logits

    def raw_log_sums(self) -> Floats:
        """Give log(sum(exp(raw logits))) of the rows whose draw has needed it, [B], else NaN."""
        known = np.full(len(self._logits), np.nan)
        if self._whole.size:
            known[self._whole] = self._whole_field.log_sums
        if self._narrow.size:
            known[self._narrow] = self._narrow_field.log_sums
        known[self._table["temperature"] != 1.0] = np.nan
        known[self._edits.rows] = np.nan
        return known

    @cached_property
    def _whole_field(self) -> Field:
        return gather(self._logits, self._peaks, self._table, self._whole)

    @cached_property
    def _narrow_field(self) -> Field:
        return gather(self._logits, self._peaks, self._table, self._narrow)

    @cached_property
    def _heads(self) -> list[tuple[TokenIds, Heads]]:
        if not self._narrow.size:
            return []
        return [(self._narrow[rows], heads) for rows, heads in filtered(self._narrow_field)]

    def _at(self, token_ids: TokenIds) -> Logits:
        return self._logits[np.arange(len(token_ids)), token_ids]
