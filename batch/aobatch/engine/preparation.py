"""A parsed request as sequences to compute: tokenised, and held against the model's limits."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Self

import numpy as np

from aobatch.api import errors
from aobatch.api.body import CompletionBody
from aobatch.api.errors import TokenNeed
from aobatch.api.kinds import Chat, Prompt
from aobatch.api.request import Request
from aobatch.arrays import TokenIds
from aobatch.engine.detokenizer import decode
from aobatch.engine.sequence import RequestState, SequenceGroup
from aobatch.errors import RequestError
from aobatch.models import InfillOrder
from aobatch.models.chat import FORMATS, UNKNOWN, ChatFormat, format_of_vocabulary
from aobatch.models.tokenizer import Tokenizer
from aobatch.shapes.matching import ShapeCompiler

MIN_CANDIDATES = 8
"""Fewer candidates leave nothing to choose from."""


@dataclass(frozen=True, slots=True)
class ModelLimits:
    """What a model says about the requests that it can take."""

    vocab_size: int
    context_length: int
    eos_token_ids: tuple[int, ...]
    document_start_token_id: int
    adds_document_start: bool
    infill_token_ids: tuple[int, ...]
    """The tokens ahead of a prefix, a suffix and, mostly, the middle, if there are any."""
    infill_order: InfillOrder = "PSM"
    chat_format: str = UNKNOWN
    """How chats are written, see `chat.FORMATS`."""


@dataclass(frozen=True, slots=True)
class _Chats:
    """The format of chats, and the tokens that end an answer in it."""

    chat_format: ChatFormat
    end_token_ids: tuple[int, ...]

    @classmethod
    def of(cls, name: str, token_bytes: Sequence[bytes]) -> Self:
        """Find a format by its name, or by the vocabulary; RequestError if there is none."""
        ids = {token: index for index, token in enumerate(token_bytes)}
        if name == UNKNOWN:
            name = format_of_vocabulary({token.decode("utf-8", "replace") for token in ids})
        found = FORMATS.get(name)
        if found is None:
            reason = (
                "this model has no chat format that is known here; name one with --chat-format, or "
                "write the prompt yourself."
            )
            raise errors.invalid_value(reason, "messages")
        ends = (ids.get(end.encode()) for end in found.ends)
        return cls(found, tuple(index for index in ends if index is not None))


@dataclass
class Preparation:
    """Turns requests into groups of sequences."""

    tokenizer: Tokenizer
    limits: ModelLimits
    clamp_max_tokens: bool = field(kw_only=True)
    longest_token: int = field(init=False)
    """In bytes; a text of more characters than the context times that cannot fit."""
    shapes: ShapeCompiler = field(init=False)

    def __post_init__(self) -> None:
        self.longest_token = max(map(len, self.tokenizer.token_bytes), default=1)
        self.shapes = ShapeCompiler(self.tokenizer)

    def prepare(self, request: Request) -> RequestState:
        """Tokenise all prompts; a request that the model cannot take gets its error set."""
        state, body = RequestState(request), request.body
        try:
            self._check_range([token_id for token_id, _ in body.logit_bias], "logit_bias")
            self._check_range(body.stop_token_ids, "stop_token_ids")
            indices = range(len(body.prompts))
            state.groups = [self._group(state, index) for index in indices]
        except RequestError as error:
            state.error = error
        for group in state.groups:
            if not group.needs_model:
                for _ in range(group.num_sequences):
                    group.start_sequence().finish_reason = "length"
        state.num_open = sum(group.num_sequences for group in state.groups_to_compute)
        return state

    def _group(self, state: RequestState, index: int) -> SequenceGroup:
        body = state.request.body
        prompt = body.prompts[index]
        end = self._ends(body, prompt)
        matcher = self.shapes.compile(body.shape, end) if body.shape else None
        name = "prompt" if len(body.prompts) == 1 else f"prompt[{index}]"
        text, token_ids, num_added = self._tokenise(prompt, name)
        num_echoed = len(token_ids) - num_added
        suffix = self._encode_behind(body.suffix) if body.suffix else np.empty(0, np.int64)
        need = TokenNeed(name, len(token_ids), len(suffix), body.max_tokens)
        if len(suffix) and self.limits.infill_token_ids:
            start = token_ids[: num_added if self.limits.adds_document_start else 0]
            token_ids, num_added = self._infill(start, token_ids[num_added:], suffix)
            suffix = suffix[:0]
        num_logprobs = body.logprobs
        if num_logprobs is None and body.is_ranked:
            num_logprobs = 0  # ranking needs the logprobs of the sampled tokens
        is_open = isinstance(prompt, Chat) and prompt.fills_context
        params = body.sampling_params(end, num_logprobs)
        num_drawn = max(body.best_of, MIN_CANDIDATES) if len(suffix) else body.best_of
        return SequenceGroup(
            state=state,
            index=index,
            prompt_text=text,
            prompt_token_ids=token_ids,
            num_added=num_added,
            params=params,
            max_tokens=self._max_tokens(len(token_ids) + len(suffix), need, is_open=is_open),
            # Equal candidates are computed once.
            num_sequences=1 if params.is_greedy else num_drawn,
            suffix_token_ids=suffix,
            num_echoed=num_echoed,
            matcher=matcher,
        )

    def _ends(self, body: CompletionBody, prompt: Prompt) -> tuple[int, ...]:
        """Find the tokens that end an answer by the model's word; a chat's turn has its own."""
        if body.ignore_eos:
            return ()
        more = self._chats.end_token_ids if isinstance(prompt, Chat) else ()
        return tuple(dict.fromkeys((*self.limits.eos_token_ids, *more)))

    def _infill(self, start: TokenIds, prefix: TokenIds, suffix: TokenIds) -> tuple[TokenIds, int]:
        """Lay out a prompt to fill in as the model was trained, and say where the prefix begins."""
        marks = (np.array([token_id], np.int64) for token_id in self.limits.infill_token_ids)
        before, between, *middle = marks
        if self.limits.infill_order == "PSM":
            parts = [start, before, prefix, between, suffix, *middle]
            return np.concatenate(parts), len(start) + 1
        parts = [start, between, suffix, before, prefix, *middle]
        return np.concatenate(parts), len(start) + len(suffix) + 2

    @cached_property
    def _chats(self) -> "_Chats":
        """How chats are written; RequestError if the model has no format for them."""
        return _Chats.of(self.limits.chat_format, self.tokenizer.token_bytes)

    def _tokenise(self, prompt: Prompt, name: str) -> tuple[str, TokenIds, int]:
        if isinstance(prompt, Chat):
            parts = self._chats.chat_format.write(prompt.messages)
            text = "".join(part for part, _ in parts)
            self._check_fits(-(-len(text) // self.longest_token), name)
            return text, self.tokenizer.encode_parts(parts), 0
        if isinstance(prompt, tuple):
            self._check_range(prompt, name)
            self._check_fits(len(prompt), name)
            text = decode(self.tokenizer.token_bytes[token_id] for token_id in prompt)
            return text, np.array(prompt, np.int64), 0
        ids = self._encode(prompt, name)
        if not self.limits.adds_document_start and len(ids):
            return prompt, ids, 0
        return prompt, np.concatenate([[self.limits.document_start_token_id], ids]), 1

    def _encode(self, text: str, name: str) -> TokenIds:
        # Tokenising takes a hundred times the memory of a text: not for one that cannot fit.
        self._check_fits(-(-len(text) // self.longest_token), name)
        return self.tokenizer.encode(text)

    def _encode_behind(self, text: str) -> TokenIds:
        """Give the ids of a text that goes on: without the space that some vocabularies put ahead.

        They put none behind a line end, whose ids are then left out.
        """
        name, line_end, table = "suffix", "\n", self.tokenizer.token_bytes
        ids = self._encode(text, name)
        asked = text.encode("utf-8", "replace")
        if b"".join(table[token_id] for token_id in ids) == asked:
            return ids
        behind = self._encode(line_end + text, name)[len(self._encode(line_end, name)) :]
        return behind if b"".join(table[token_id] for token_id in behind) == asked else ids

    def _check_fits(self, min_tokens: int, name: str) -> None:
        if min_tokens > self.limits.context_length:
            raise errors.text_too_long(self.limits.context_length, min_tokens, name)

    def _max_tokens(self, num_read: int, need: TokenNeed, *, is_open: bool) -> int:
        """Say how many tokens may follow those that the model reads."""
        room = self.limits.context_length - num_read
        if need.max_tokens <= room:
            return need.max_tokens
        if (self.clamp_max_tokens or is_open) and room > 0:
            return room
        raise errors.context_length_exceeded(self.limits.context_length, need)

    def _check_range(self, token_ids: Iterable[int], name: str) -> None:
        size = self.limits.vocab_size
        outside = [token_id for token_id in token_ids if not 0 <= token_id < size]
        if outside:
            reason = f"token id {outside[0]} is outside the model's vocabulary of {size} tokens."
            raise errors.invalid_value(reason, name)
