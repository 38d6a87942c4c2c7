"""Prompts into slots: several short ones in one run, long ones in chunks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.engine.sequence import SequenceGroup
from aobatch.runners import Chunk, ModelRunner
from aobatch.sampling.logprobs import score

CHUNK = 256
"""Tokens that a prompt takes in at once."""
MAX_RUN_TOKENS = 1024
MAX_RUN_LOGITS = 256


def chunk_ends(length: int) -> list[int]:
    """Cut a prompt into chunks; where they end depends on its length alone.

    A chunk of one token behind others would take another attention kernel, which differs in the
    last bit, so the chunk ahead of it leaves it a second token.
    """
    ends = [*range(CHUNK, length, CHUNK), length]
    if length > CHUNK and length % CHUNK == 1:
        ends[-2] -= 1
    return ends


@dataclass(frozen=True, slots=True)
class _Part:
    group: SequenceGroup
    chunk: Chunk

    @property
    def end(self) -> int:
        return self.chunk.start + len(self.chunk.token_ids)


def prefill(runner: ModelRunner, groups: Sequence[SequenceGroup], first_slot: int) -> None:
    """Compute prompts into the slots from first_slot on, the longest first.

    Sets every group's last_logits, and its prompt_scores where they are asked for.
    """
    for group in groups:
        group.prompt_scores.clear()
    for run in _runs(groups, first_slot):
        logits = runner.prefill([part.chunk for part in run])
        stop = 0
        for part in run:
            start, stop = stop, stop + part.chunk.num_logits
            _keep(part, logits[start:stop])


def score_tail(runner: ModelRunner, slot: int, token_ids: TokenIds, first: int) -> Floats:
    """Compute tokens in a free slot; the logprobs of those from position `first` > 0 on."""
    start, logprobs = 0, []
    for end in chunk_ends(len(token_ids)):
        num_logits = max(0, end - max(start, first - 1))
        chunk = Chunk(slot, start, token_ids[start:end], num_logits)
        logits = runner.prefill([chunk])
        targets = token_ids[end - num_logits + 1 : end + 1]
        if len(targets):
            none = np.zeros(len(targets), np.int64)
            unknown = np.full(len(targets), np.nan)
            logprobs.append(score(logits[: len(targets)], unknown, targets, none).logprobs)
        start = end
    return np.concatenate(logprobs)


def _runs(groups: Sequence[SequenceGroup], first_slot: int) -> Iterator[list[_Part]]:
    """Yield runs over neighbouring slots: all first chunks, then all second ones."""
    ends = [chunk_ends(len(group.prompt_token_ids)) for group in groups]
    for index in range(len(ends[0])):
        run: list[_Part] = []
        for position, group in enumerate(groups):
            if index >= len(ends[position]):
                break  # groups are sorted, so all further ones are done too
            part = _part(group, ends[position], index, first_slot + position)
            if run and not _fits(run, part):
                yield run
                run = []
            run.append(part)
        yield run


def _part(group: SequenceGroup, ends: list[int], index: int, slot: int) -> _Part:
    start, end = ends[index - 1] if index else 0, ends[index]
    num_logits = end - start if group.scores_prompt else int(end == ends[-1])
    return _Part(group, Chunk(slot, start, group.prompt_token_ids[start:end], num_logits))


def _fits(run: list[_Part], part: _Part) -> bool:
    tokens = sum(len(other.chunk.token_ids) for other in run) + len(part.chunk.token_ids)
    logits = sum(other.chunk.num_logits for other in run) + part.chunk.num_logits
    return tokens <= MAX_RUN_TOKENS and logits <= MAX_RUN_LOGITS


def _keep(part: _Part, logits: Logits) -> None:
    """Copy what is still needed of a chunk's logits [R, V]; the runner will overwrite them."""
    group, prompt = part.group, part.group.prompt_token_ids
    if group.scores_prompt:
        targets = prompt[part.chunk.start + 1 : part.end + 1]
        asked = np.full(len(targets), group.params.num_logprobs or 0)
        unknown = np.full(len(targets), np.nan)
        group.prompt_scores.append(score(logits[: len(targets)], unknown, targets, asked))
    if part.end == len(prompt):
        group.last_logits = logits[-1].copy()
