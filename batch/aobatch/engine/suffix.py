"""A suffix for models without infill tokens: importance resampling of the candidates.

Candidates are drawn from P(middle | prompt); keeping those under which the suffix is most probable
approximates P(middle | prompt, suffix), since that is proportional to
P(middle | prompt) * P(suffix | prompt, middle) (sampling importance resampling, Rubin 1988).
"""

import numpy as np

from aobatch.api import errors
from aobatch.engine.prefill import score_tail
from aobatch.engine.sequence import Sequence
from aobatch.models.tokenizer import Tokenizer
from aobatch.runners import ModelRunner

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
