"""The sampler: logits of neighbouring slots in, one token a slot out, with its logprobs."""

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.blocks import BLOCK, Blocks, BlocksOf, Measured, draw_from_blocks, rows_of
from aobatch.sampling.columns import Columns, UniformColumns
from aobatch.sampling.filters import Rows, is_limited
from aobatch.sampling.logprobs import Scores, blank_scores, score_kept, score_rows
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.processors import Masks, process


class BatchStep:
    """One step of neighbouring slots: processes their logits [B, V], in place, and chooses."""

    def __init__(
        self,
        logits: Logits,
        columns: Columns,
        slots: slice,
        masks: Masks | None,
        blocks_of: BlocksOf,
        *,
        is_raw: bool,
    ) -> None:
        self._logits, self._blocks_of, self._is_raw = logits, blocks_of, is_raw
        self._table = columns.table[slots]
        self._edits = process(logits, columns, slots)
        self._is_edited = np.bincount(self._edits.rows, minlength=len(logits)) > 0
        self._blocks = blocks_of(logits, masks)
        self._best, self._peaks = self._find_best(masks)

        # A NaN or +inf is its row's maximum, and so is -inf where there is nothing else.
        before = np.full(len(logits), -np.inf, dtype=np.float32)
        np.maximum.at(before, self._edits.rows, self._edits.before)
        self.is_finite = np.isfinite(np.maximum(self._peaks, before))
        # Bans and masks can leave a row nothing; then its best token is id 0.
        self.is_possible = self.is_finite & np.isfinite(self._peaks)
        is_drawn = self.is_possible & self._table["is_drawn"]
        self.drawn = np.flatnonzero(is_drawn)
        self._whole = np.flatnonzero(is_drawn & ~self._table["is_filtered"])
        self._narrow = np.flatnonzero(is_drawn & self._table["is_filtered"])
        # What filters have left of rows, by its weight and its last token.
        self._totals = np.full(len(logits), np.nan)
        self._last_logits = np.full(len(logits), -np.inf, dtype=np.float32)
        self._last_ids = np.zeros(len(logits), dtype=np.int64)

    def choose(self, uniforms: Floats) -> TokenIds:
        """Choose each row's token [B]: the best one, or where drawn, by its uniform [B]."""
        token_ids = self._best.copy()
        if self._whole.size:
            whole = self._rows(self._whole)
            token_ids[self._whole] = draw_from_blocks(self._blocks, whole, uniforms[self._whole])
        if self._narrow.size:
            narrow = self._narrow
            drawn = self._blocks.draw(self._rows(narrow), uniforms[narrow])
            token_ids[narrow], self._totals[narrow] = drawn.token_ids, drawn.totals
            self._last_logits[narrow], self._last_ids[narrow] = drawn.last_logits, drawn.last_ids
        return token_ids

    def score(self, token_ids: TokenIds) -> tuple[TokenIds, Scores]:
        """Score the tokens [B] of rows that ask for it; which rows [n] these are, and their scores.

        The logits are put back; what is drawn must be drawn before.
        """
        is_scored = self.is_finite if self._is_raw else self.is_possible
        rows = np.flatnonzero(self._table["is_scored"] & is_scored)
        counts = self._table["num_logprobs"][rows]
        if rows.size and not self._is_raw:
            scores = self._score_processed(rows, token_ids[rows], counts)
        self._edits.undo(self._logits)
        if rows.size and self._is_raw:
            raw = self._blocks_of(self._logits, None)
            measured = self._measure_raw(raw, rows)
            scores = score_rows(raw, rows, measured, token_ids[rows], counts)
        return rows, scores if rows.size else blank_scores(0, 0)

    def _find_best(self, masks: Masks | None) -> tuple[TokenIds, Logits]:
        """Find each row's largest logit: ids and logits, [B].

        Rows of which nothing else will be asked are searched as they are, all others by blocks.
        """
        table, logits = self._table, self._logits
        is_reported = table["is_scored"] & ~(self._is_edited & self._is_raw)
        is_measured = table["is_drawn"] | is_reported
        best = np.zeros(len(logits), dtype=np.int64)
        searched = np.flatnonzero(~is_measured)
        unmasked = self._blocks if masks is None else self._blocks_of(logits, None)
        best[searched] = unmasked.best(searched) if searched.size else searched
        if masks is not None:
            # A row's best token needs no look at its others if the mask allows it.
            is_allowed = masks.allow(np.arange(len(masks.rows)), best[masks.rows])
            is_measured[masks.rows[~is_allowed]] = True
        rows = self._measured_rows = np.flatnonzero(is_measured)
        self._temperatures = self._temperatures_of(rows)
        self._measured = self._blocks.measure(rows, self._temperatures)
        blocks = self._measured.maxima.argmax(axis=1)
        best[rows] = blocks * BLOCK + self._blocks.read(rows, blocks).argmax(axis=1)
        peaks = logits[np.arange(len(best)), best]
        peaks[rows] = self._measured.maxima[np.arange(len(rows)), blocks]
        return best, peaks

    def _temperatures_of(self, rows: TokenIds) -> Floats:
        """Say at which temperature sums of rows' exponentials will be wanted, [n]; 0 for none."""
        table = self._table[rows]
        temperatures = np.where(table["is_drawn"], table["temperature"], 1.0)
        # A top_k is of the largest logits, whatever all others sum up to.
        is_unused = table["is_filtered"] & is_limited(table, self._logits.shape[1])
        is_unused |= ~table["is_drawn"] & ~table["is_scored"]
        is_unused &= ~(table["is_scored"] & (temperatures == 1.0))
        return np.where(is_unused, 0.0, temperatures)

    def _take_measured(self, rows: TokenIds) -> Measured:
        if len(rows) == len(self._measured_rows):
            return self._measured
        places = np.searchsorted(self._measured_rows, rows)
        return Measured(self._measured.maxima[places], self._measured.sums[places])

    def _rows(self, rows: TokenIds) -> Rows:
        table = self._table[rows]
        table["temperature"][~table["is_drawn"]] = 1.0
        return rows_of(self._blocks, rows, self._peaks[rows], table, self._take_measured(rows))

    def _measure_raw(self, raw: Blocks, rows: TokenIds) -> Measured:
        """Measure rows [n] at temperature 1, once more where edits, masks or draws saw others."""
        is_raw = ~self._is_edited & (self._blocks.mask_places < 0)
        is_raw[self._measured_rows] &= self._temperatures == 1.0
        is_raw &= np.isin(np.arange(len(is_raw)), self._measured_rows)
        again = np.flatnonzero(~is_raw[rows])
        if not again.size:
            return self._take_measured(rows)
        fresh = raw.measure(rows[again], np.ones(again.size))
        if again.size == len(rows):
            return fresh
        shape = len(rows), self._blocks.num_blocks
        found = Measured(np.empty(shape, np.float32), np.empty(shape, np.float32))
        known = np.flatnonzero(is_raw[rows])
        for target, part, new in zip(found, self._take_measured(rows[known]), fresh, strict=True):
            target[known], target[again] = part, new
        return found

    def _score_processed(self, rows: TokenIds, token_ids: TokenIds, counts: TokenIds) -> Scores:
        """Score rows [n] by the distributions that their tokens come from.

        A greedy row's is that of its processed logits, as no temperature divides them.
        """
        part = self._rows(rows)
        known = self._totals[rows]
        totals = np.where(np.isnan(known), part.totals, known)
        last = self._last_logits[rows], self._last_ids[rows]
        return score_kept(self._blocks, part, totals, last, token_ids, counts)


class Sampled(NamedTuple):
    """One token for each row of a step."""

    token_ids: TokenIds
    """Chosen ids, [B]."""
    logprobs: Floats
    """Logprob of the chosen token, [B], NaN where the row did not ask."""
    top_ids: TokenIds
    """Most probable ids, [B, K]; K is the most that a row asked for, each reads its first ones."""
    top_logprobs: Floats
    """Their logprobs, [B, K], falling, ties by id."""
    is_finite: NDArray[np.bool_]
    """False where raw logits hold NaN, +inf or nothing finite, or nothing that the row's mask
    allows: the rest means nothing, [B]."""


class Sampler:
    """Chooses the next token of each slot, by parameters, history and random stream of its own.

    A row's result is the same to the bit whatever other rows, slots or steps surround it. One
    thread at a time may call a sampler; several samplers are independent.
    """

    def __init__(
        self,
        num_slots: int,
        vocab_size: int,
        logprobs_mode: Literal["raw", "processed"] = "raw",
        blocks_of: BlocksOf = Blocks,
    ) -> None:
        self._vocab_size = vocab_size
        self._columns = Columns(num_slots, vocab_size)
        self._streams = UniformColumns(num_slots)
        self._is_raw = logprobs_mode == "raw"
        self.blocks_of = blocks_of

    def admit(
        self, slot: int, params: SamplingParams, key: bytes, prompt_token_ids: TokenIds
    ) -> None:
        """Begin a sequence in a slot, with the 16-byte key of its random stream."""
        self._columns.admit(slot, params, prompt_token_ids)
        self._streams.admit(slot, key)

    def move(self, source: int, target: int) -> None:
        """Let the sequence of slot source go on in slot target."""
        self._columns.move(source, target)
        self._streams.move(source, target)

    def sample(self, logits: Logits, first_slot: int = 0, masks: Masks | None = None) -> Sampled:
        """Choose a token for logits[b] of slot first_slot + b, and take note of it.

        The order is raw logits, bias, bans by min_tokens, penalties, masks, then either the best
        token (lowest id among equals) or temperature, top_k, top_p, min_p and one draw. Logits
        [B, V] are changed meanwhile, and are what they were in the end.
        """
        slots = slice(first_slot, first_slot + len(logits))
        with np.errstate(over="ignore", invalid="ignore"):
            step = BatchStep(
                logits, self._columns, slots, masks, self.blocks_of, is_raw=self._is_raw
            )
            token_ids = step.choose(self._uniforms(step.drawn, slots))
            scores = self._spread(*step.score(token_ids), slots)
        self._columns.record(slots, token_ids)
        is_usable = step.is_finite
        if masks is not None:
            is_usable = is_usable.copy()
            is_usable[masks.rows] &= step.is_possible[masks.rows]
        return Sampled(token_ids, *scores, is_usable)

    def _uniforms(self, rows: TokenIds, slots: slice) -> Floats:
        table = self._columns.table[slots]
        uniforms = np.zeros(len(table))
        uniforms[rows] = self._streams.take(rows + slots.start, table["num_generated"][rows])
        return uniforms

    def _spread(self, rows: TokenIds, found: Scores, slots: slice) -> Scores:
        """Give scores [n] of some rows their places among all, [B]."""
        table = self._columns.table[slots]
        width = min(table["num_logprobs"].max(initial=0), self._vocab_size)
        scores = blank_scores(len(table), width)
        scores.logprobs[~table["is_scored"]] = np.nan
        width = found.top_ids.shape[1]
        scores.logprobs[rows] = found.logprobs
        scores.top_ids[rows, :width] = found.top_ids
        scores.top_logprobs[rows, :width] = found.top_logprobs
        return scores
