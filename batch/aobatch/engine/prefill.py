"""Prompts into slots: several short ones in one run, long ones in chunks, shared ones once."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from aobatch.api import errors
from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.engine.placement import Placement, by_stage, chunk_ends
from aobatch.runners import Chunk, ModelRunner
from aobatch.sampling.logprobs import Scores, first_rows, score

MAX_RUN_TOKENS = 1024
MAX_RUN_LOGITS = 256


@dataclass(frozen=True, slots=True)
class _Part:
    placement: Placement
    chunk: Chunk

    @property
    def end(self) -> int:
        return self.chunk.start + len(self.chunk.token_ids)


def prefill(runner: ModelRunner, placements: Sequence[Placement], capacity: int) -> None:
    """Compute prompts into the slots of their placements, which have room for `capacity` tokens.

    Sets every placement's last_logits, and its scores where they are asked for.
    """
    targets = {placement.slot for placement in placements}
    sources = [(p, p.held) for p in placements if p.held]
    # A source that will be overwritten is copied first; there is one at most.
    for placement, held in sorted(sources, key=lambda pair: pair[1].slot not in targets):
        _copy(runner, placement, held.slot, held.group.prompt_scores)
    for stage, members in groupby(by_stage(placements), key=lambda p: p.stage):
        for placement in placements:
            if placement.neighbour and placement.stage == stage:
                near = placement.neighbour
                _copy(runner, placement, near.slot, near.scores)
        _compute(runner, list(members), capacity)
    for placement in placements:
        if any(np.isnan(chunk.logprobs).any() for chunk in placement.scores):
            placement.group.state.error = errors.numerical_error()


def score_tail(runner: ModelRunner, slot: int, token_ids: TokenIds, first: int) -> Floats:
    """Compute tokens in a free slot; the logprobs of those from position `first` > 0 on.

    NaN where the model computed no usable number.
    """
    start, logprobs = 0, []
    for end in chunk_ends(len(token_ids)):
        num_logits = max(0, end - max(start, first - 1))
        chunk = Chunk(slot, start, token_ids[start:end], num_logits)
        logits = runner.prefill([chunk])
        targets = token_ids[end - num_logits + 1 : end + 1]
        if len(targets):
            none = np.zeros(len(targets), np.int64)
            logprobs.append(_scores(logits[: len(targets)], targets, none).logprobs)
        start = end
    return np.concatenate(logprobs)


def _copy(runner: ModelRunner, placement: Placement, slot: int, scores: Sequence[Scores]) -> None:
    """Take the first tokens from another slot, and the scores of those that follow them."""
    if slot != placement.slot:
        runner.copy(slot, placement.slot, placement.start)
    left = placement.start if placement.group.scores_prompt else 0
    for chunk in scores:
        if left > 0:
            placement.scores.append(first_rows(chunk, left))
            left -= len(chunk.logprobs)


def _compute(runner: ModelRunner, placements: Sequence[Placement], capacity: int) -> None:
    for run in _runs(placements, capacity):
        logits = runner.prefill([part.chunk for part in run])
        stop = 0
        for part in run:
            start, stop = stop, stop + part.chunk.num_logits
            _keep(part, logits[start:stop])


def _runs(placements: Sequence[Placement], capacity: int) -> Iterator[list[_Part]]:
    """Yield runs over neighbouring slots: all first chunks, then all second ones."""
    for index in range(len(placements[0].ends)):
        run: list[_Part] = []
        for placement in placements:
            if index >= len(placement.ends):
                break  # placements are sorted, so all further ones are done too
            part = _part(placement, index)
            if run and not _fits([*run, part], capacity):
                yield run
                run = []
            run.append(part)
        yield run


def _part(placement: Placement, index: int) -> _Part:
    ends, group = placement.ends, placement.group
    start, end = ends[index - 1] if index else placement.start, ends[index]
    num_logits = end - start if group.scores_prompt else int(end == ends[-1])
    chunk = Chunk(placement.slot, start, group.prompt_token_ids[start:end], num_logits)
    return _Part(placement, chunk)


def _fits(run: list[_Part], capacity: int) -> bool:
    """Say whether a run stays within memory, each row with room for the longest row's chunk."""
    chunks = [part.chunk for part in run]
    sizes = [len(chunk.token_ids) for chunk in chunks]
    logits = sum(chunk.num_logits for chunk in chunks)
    has_room = max(chunk.start for chunk in chunks) + max(sizes) <= capacity
    return has_room and sum(sizes) <= MAX_RUN_TOKENS and logits <= MAX_RUN_LOGITS


def _scores(logits: Logits, targets: TokenIds, asked: TokenIds) -> Scores:
    """Score targets under logits [n, V], which are changed; NaN under rows without numbers."""
    is_broken = ~np.isfinite(logits.max(axis=1))
    logits[is_broken] = 0
    scores = score(logits, np.full(len(targets), np.nan), targets, asked)
    scores.logprobs[is_broken] = np.nan
    return scores


def _keep(part: _Part, logits: Logits) -> None:
    """Copy what is still needed of a chunk's logits [R, V]; the runner will overwrite them."""
    placement, group = part.placement, part.placement.group
    prompt = group.prompt_token_ids
    if group.scores_prompt:
        targets = prompt[part.chunk.start + 1 : part.end + 1]
        asked = np.full(len(targets), group.params.num_logprobs or 0)
        placement.scores.append(_scores(logits[: len(targets)], targets, asked))
    if part.end == len(prompt):
        placement.last_logits = logits[-1].copy()
