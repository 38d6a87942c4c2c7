"""The sampler: logits of neighbouring slots in, one token a slot out, with its logprobs."""

from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.sampling.columns import Columns, take_rows
from aobatch.sampling.draw import UniformColumns, draw_from_all, draw_from_candidates
from aobatch.sampling.logprobs import Scores, blank_scores, score
from aobatch.sampling.nucleus import Candidates, Rows, filtered, gather, log_sum
from aobatch.sampling.params import SamplingParams
from aobatch.sampling.processors import Masks, hide, process


class BatchStep:
    """One step of neighbouring slots: processes their logits [B, V], in place, and chooses."""

    def __init__(
        self, logits: Logits, columns: Columns, slots: slice, masks: Masks | None = None
    ) -> None:
        self._logits = logits
        self._table = columns.table[slots]
        self._best = logits.argmax(axis=1)
        # A NaN or +inf is its row's maximum, and so is -inf where there is nothing else.
        self.is_finite = np.isfinite(self._at(self._best))
        self._edits = process(logits, columns, slots)
        edited = np.flatnonzero(np.bincount(self._edits.rows))
        self._best[edited] = take_rows(logits, edited).argmax(axis=1)
        self._hidden, self._unhidden = self._hide(masks)
        self._peaks = self._at(self._best)
        # Bans and masks can leave a row nothing; then its best token is id 0.
        self.is_possible = self.is_finite & np.isfinite(self._peaks)

        is_drawn = self.is_possible & self._table["is_drawn"]
        self.drawn = np.flatnonzero(is_drawn)
        self._whole = np.flatnonzero(is_drawn & ~self._table["is_filtered"])
        self._narrow = np.flatnonzero(is_drawn & self._table["is_filtered"])

    def choose(self, uniforms: Floats) -> TokenIds:
        """Choose each row's token [B]: the best one, or where drawn, by its uniform [B]."""
        token_ids = self._best.copy()
        if self._whole.size:
            token_ids[self._whole] = draw_from_all(self._whole_rows, uniforms[self._whole])
        for rows, found in self._candidates:
            token_ids[rows] = draw_from_candidates(found, uniforms[rows])
        return np.asarray(token_ids)

    def distribution(self, rows: TokenIds) -> Logits:
        """Compute log-weights [n, V] of the distributions from which some rows' tokens come.

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
        for group, found in self._candidates:
            targets = found.spread(places[group])
            wanted = targets >= 0
            weights[targets[wanted], found.ids[wanted]] = -found.depths[wanted]
        return weights

    def undo(self) -> Logits:
        """Put the raw logits [B, V] back; what is drawn must be drawn before."""
        if self._unhidden is not None:
            self._logits[self._hidden] = self._unhidden
        self._edits.undo(self._logits)
        return self._logits

    def raw_log_sums(self) -> Floats:
        """Compute log(sum(exp(raw logits))) of rows whose draw has summed them, [B], else NaN."""
        known = np.full(len(self._logits), np.nan)
        if self._whole.size:
            known[self._whole] = log_sum(self._whole_rows.peaks, self._whole_rows.sums)
        if self._narrow.size:
            known[self._narrow] = log_sum(self._narrow_rows.peaks, self._narrow_rows.sums)
        known[self._table["temperature"] != 1.0] = np.nan
        known[self._edits.rows] = np.nan
        known[self._hidden] = np.nan
        return known

    @cached_property
    def _whole_rows(self) -> Rows:
        return gather(self._logits, self._peaks, self._table, self._whole)

    @cached_property
    def _narrow_rows(self) -> Rows:
        return gather(self._logits, self._peaks, self._table, self._narrow)

    @cached_property
    def _candidates(self) -> list[tuple[TokenIds, Candidates]]:
        if not self._narrow.size:
            return []
        return [(self._narrow[places], found) for places, found in filtered(self._narrow_rows)]

    def _hide(self, masks: Masks | None) -> tuple[TokenIds, Logits | None]:
        """Hide what masks do not allow; give the rows in which it was, and what they were, [n, V].

        A row's best token needs no look at its others if the mask allows it, and what nobody will
        report is not kept.
        """
        if masks is None:
            return np.empty(0, np.int64), None
        rows, table = masks.rows, self._table[masks.rows]
        is_best = masks.allow(self._best[rows]) & ~table["is_drawn"] & ~table["is_scored"]
        masks = masks.take(self.is_finite[rows] & ~is_best)
        is_reported = bool(self._table["is_scored"][masks.rows].any())
        before = np.take(self._logits, masks.rows, axis=0) if is_reported else None
        hide(self._logits, masks)
        self._best[masks.rows] = take_rows(self._logits, masks.rows).argmax(axis=1)
        return masks.rows, before

    def _at(self, token_ids: TokenIds) -> Logits:
        return self._logits[np.arange(len(token_ids)), token_ids]


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
    ) -> None:
        self._vocab_size = vocab_size
        self._columns = Columns(num_slots, vocab_size)
        self._streams = UniformColumns(num_slots)
        self._is_raw = logprobs_mode == "raw"

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
        [B, V] are changed meanwhile, and are what they were in the end, but where a mask was
        applied to rows of which none is scored.
        """
        slots = slice(first_slot, first_slot + len(logits))
        with np.errstate(over="ignore", invalid="ignore"):
            step = BatchStep(logits, self._columns, slots, masks)
            token_ids = step.choose(self._uniforms(step.drawn, slots))
            scores = self._score(step, slots, token_ids)
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

    def _score(self, step: BatchStep, slots: slice, token_ids: TokenIds) -> Scores:
        table = self._columns.table[slots]
        counts = table["num_logprobs"]
        has_scores = step.is_finite if self._is_raw else step.is_possible
        rows = np.flatnonzero(table["is_scored"] & has_scores)
        scores = blank_scores(len(counts), min(counts.max(initial=0), self._vocab_size))
        scores.logprobs[~table["is_scored"]] = np.nan
        weights = step.distribution(rows) if rows.size and not self._is_raw else None
        raw = step.undo()
        if rows.size:
            known = step.raw_log_sums()[rows] if weights is None else np.full(len(rows), np.nan)
            reported = take_rows(raw, rows) if weights is None else weights
            found = score(reported, known, token_ids[rows], counts[rows])
            width = found.top_ids.shape[1]
            scores.logprobs[rows] = found.logprobs
            scores.top_ids[rows, :width] = found.top_ids
            scores.top_logprobs[rows, :width] = found.top_logprobs
        return scores
