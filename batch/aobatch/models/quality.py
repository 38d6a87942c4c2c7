"""How close a converted graph is to its fp32 reference, on a text that ships with the package."""

from collections.abc import Callable, Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TypeAlias

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.models.manifest import Quality

MAX_KL = 0.02
"""A precision further from fp32 than this, in nats a token, is refused."""
CHUNK = 256

Scorer: TypeAlias = Callable[[Path, Sequence[TokenIds]], Iterator[Logits]]
"""Runs the graph of a folder over chunks of tokens; yields each chunk's logits [N, V]."""


def quality_text() -> str:
    """Give the shipped text."""
    return files("aobatch.models").joinpath("quality.txt").read_text(encoding="utf-8")


def measure(
    reference: Iterator[Logits], candidate: Iterator[Logits], advance: Callable[[int], None]
) -> Quality:
    """Compare two graphs' logits over the same chunks; `advance(chunks)` follows the work."""
    kl, agreement, num_tokens = 0.0, 0, 0
    for index, (expected, found) in enumerate(zip(reference, candidate, strict=True), start=1):
        expected_logprobs, found_logprobs = _log_softmax(expected), _log_softmax(found)
        kl += float((np.exp(expected_logprobs) * (expected_logprobs - found_logprobs)).sum())
        agreement += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())
        num_tokens += len(expected)
        advance(index)
    return Quality(round(kl / num_tokens, 5), round(agreement / num_tokens, 4), num_tokens)


def chunks_of(token_ids: TokenIds) -> list[TokenIds]:
    """Cut a text into whole chunks; what is left over is not used."""
    if len(token_ids) < CHUNK:
        return [token_ids]
    return list(token_ids[: len(token_ids) // CHUNK * CHUNK].reshape(-1, CHUNK))


def _log_softmax(logits: Logits) -> Floats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
