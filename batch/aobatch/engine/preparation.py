"""A parsed request as sequences to compute: tokenised, and held against the model's limits."""

from dataclasses import dataclass

import numpy as np

from aobatch.api import errors
from aobatch.api.request import CompletionBody, Request
from aobatch.arrays import TokenIds
from aobatch.engine.detokenizer import decode
from aobatch.engine.prefill import score_tail
from aobatch.engine.sequence import RequestState, Sequence, SequenceGroup
from aobatch.errors import RequestError
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import ModelRunner
from aobatch.sampling.params import SamplingParams

MIN_CANDIDATES = 8
"""Fewer candidates leave nothing to choose from."""


def score_suffix(runner: ModelRunner, slot: int, sequence: Sequence, tokenizer: Tokenizer) -> None:
    """Set the mean logprob of the suffix behind a finished candidate, computed in a free slot."""
    group = sequence.group
    head = np.concatenate([group.prompt_token_ids, _middle(sequence, tokenizer)])
    tokens = np.concatenate([head, group.suffix_token_ids])
    sequence.suffix_logprob = float(score_tail(runner, slot, tokens, len(head)).mean())
    if np.isnan(sequence.suffix_logprob):
        group.state.error = errors.numerical_error()


def _middle(sequence: Sequence, tokenizer: Tokenizer) -> np.ndarray:
    """Give the tokens of the candidate's text; where a stop cut it, the text's own."""
    ids = sequence.text_token_ids
    if sequence.watcher is None or sequence.watcher.cut is None:
        return ids
    text = sequence.watcher.text[: sequence.watcher.cut]
    # A slot has room for max_tokens, which the text's own tokens could exceed.
    return tokenizer.encode(text)[: sequence.group.max_tokens]


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a model says about the requests that it can take."""

    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    document_start_token_id: int
    adds_document_start: bool
    infill_token_ids: tuple[int, ...]
    """The tokens ahead of a prefix, a suffix and the middle between them, if there are any."""


class Preparation:
    """Turns requests into groups of sequences."""

    def __init__(
        self, tokenizer: Tokenizer, limits: ModelLimits, *, clamp_max_tokens: bool
    ) -> None:
        self._tokenizer = tokenizer
        self._limits = limits
        self._clamps = clamp_max_tokens
        self._longest_token = max(map(len, tokenizer.token_bytes), default=1)

    def prepare(self, request: Request) -> RequestState:
        """Tokenise all prompts; a request that the model cannot take gets its error set."""
        state = RequestState(request)
        try:
            self._check_token_ids(request)
            state.groups = [self._group(state, index) for index in range(len(request.body.prompts))]
        except RequestError as error:
            state.error = error
            state.groups = []
        for group in state.groups:
            if not group.needs_model:
                _skip(group)
        state.num_open = sum(group.num_sequences for group in state.groups_to_compute)
        return state

    def _group(self, state: RequestState, index: int) -> SequenceGroup:
        body = state.request.body
        text, token_ids, num_added = self._tokenise(body.prompts[index])
        num_echoed = len(token_ids) - num_added
        suffix = self._suffix(body)
        if len(suffix) and self._limits.infill_token_ids:
            token_ids, num_added, suffix = self._infill(token_ids[num_added:], suffix)
        num_logprobs = body.logprobs
        if num_logprobs is None and body.best_of > body.n:
            num_logprobs = 0  # ranking needs the logprobs of the sampled tokens
        end = () if body.ignore_eos else self._limits.eos_token_ids
        params = body.sampling_params(end, num_logprobs)
        return SequenceGroup(
            state=state,
            index=index,
            prompt_text=text,
            prompt_token_ids=token_ids,
            num_added=num_added,
            params=params,
            max_tokens=self._max_tokens(len(token_ids) + len(suffix), body.max_tokens),
            num_sequences=_num_sequences(body, params, suffix),
            suffix_token_ids=suffix,
            num_echoed=num_echoed,
        )

    def _suffix(self, body: CompletionBody) -> TokenIds:
        return self._encode(body.suffix) if body.suffix else np.empty(0, np.int64)

    def _infill(self, prefix: TokenIds, suffix: TokenIds) -> tuple[TokenIds, int, TokenIds]:
        """Lay out prefix, suffix, middle: the order in which such models were trained."""
        before, between, middle = ([token_id] for token_id in self._limits.infill_token_ids)
        token_ids = np.concatenate([before, prefix, between, suffix, middle])
        return token_ids, 1, np.empty(0, np.int64)

    def _tokenise(self, prompt: str | tuple[int, ...]) -> tuple[str, TokenIds, int]:
        if isinstance(prompt, tuple):
            ids = np.array(prompt, np.int64)
            self._check_range(ids, "prompt")
            self._check_fits(len(ids))
            return decode(self._tokenizer.token_bytes[index] for index in prompt), ids, 0
        ids = self._encode(prompt)
        if not self._limits.adds_document_start and len(ids):
            return prompt, ids, 0
        return prompt, np.concatenate([[self._limits.document_start_token_id], ids]), 1

    def _encode(self, text: str) -> TokenIds:
        # Tokenising takes a hundred times the memory of a text: not for one that cannot fit.
        self._check_fits(-(-len(text) // self._longest_token))
        return self._tokenizer.encode(text)

    def _check_fits(self, min_tokens: int) -> None:
        if min_tokens > self._limits.context_length:
            raise errors.prompt_too_long(self._limits.context_length, min_tokens)

    def _max_tokens(self, num_prompt_tokens: int, max_tokens: int) -> int:
        room = self._limits.context_length - num_prompt_tokens
        if max_tokens <= room:
            return max_tokens
        if self._clamps and room > 0:
            return room
        raise errors.context_length_exceeded(
            self._limits.context_length, num_prompt_tokens, max_tokens
        )

    def _check_token_ids(self, request: Request) -> None:
        body = request.body
        if body.logit_bias:
            biased = np.array([token_id for token_id, _ in body.logit_bias], np.int64)
            self._check_range(biased, "logit_bias")
        if body.stop_token_ids:
            self._check_range(np.array(body.stop_token_ids, np.int64), "stop_token_ids")

    def _check_range(self, token_ids: TokenIds, name: str) -> None:
        size = self._limits.vocab_size
        outside = token_ids[(token_ids < 0) | (token_ids >= size)]
        if outside.size:
            reason = f"token id {outside[0]} is outside the model's vocabulary of {size} tokens."
            raise errors.invalid_value(reason, name)


def _skip(group: SequenceGroup) -> None:
    """Finish the sequences of a group that asks for no token and no score."""
    for _ in range(group.num_sequences):
        group.start_sequence().finish_reason = "length"


def _num_sequences(body: CompletionBody, params: SamplingParams, suffix: TokenIds) -> int:
    """Count the candidates to compute: equal ones once, and enough for a suffix to choose from."""
    if params.is_greedy:
        return 1
    return max(body.best_of, MIN_CANDIDATES) if len(suffix) else body.best_of
