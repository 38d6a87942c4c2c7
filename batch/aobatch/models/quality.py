"""How close a converted graph is to its fp32 reference, on a text that ships with the package."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.errors import ModelError
from aobatch.models.manifest import Quality

CHUNK = 256


class Scorer(Protocol):
    """Runs a decoder graph over texts, each from its beginning."""

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield all logits of each text, [N, V]."""
        ...

    def caches(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Mapping[str, Floats]]:
        """Yield the keys and values of each text by name, [kv_heads, N, head_dim]."""
        ...


def quality_text() -> str:
    """Give the shipped text."""
    return files("aobatch.models").joinpath("quality.txt").read_text(encoding="utf-8")


def measure(
    reference: Iterator[Logits],
    candidates: Sequence[Iterator[Logits]],
    advance: Callable[[int], None],
) -> list[Quality]:
    """Compare graphs' logits with a reference's over the same chunks, candidate by candidate.

    `advance(chunks)` follows the work.
    """
    kl, agreement = np.zeros(len(candidates)), np.zeros(len(candidates))
    num_tokens = 0
    for index, (expected, *found) in enumerate(zip(reference, *candidates, strict=True), start=1):
        logprobs = _log_softmax(expected)
        probabilities, best = np.exp(logprobs), expected.argmax(axis=1)
        for place, logits in enumerate(found):
            kl[place] += (probabilities * (logprobs - _log_softmax(logits))).sum()
            agreement[place] += (best == logits.argmax(axis=1)).sum()
        num_tokens += len(expected)
        advance(index)
    return [
        Quality(round(float(k), 5), round(float(a), 4), num_tokens)
        for k, a in zip(kl / num_tokens, agreement / num_tokens, strict=True)
    ]


def chunks_of(token_ids: TokenIds, context_length: int = CHUNK) -> list[TokenIds]:
    """Cut a text into whole chunks that the context holds; what is left over is not used.

    Raises ModelError if there is nothing to cut.
    """
    if not len(token_ids):
        message = "the vocabulary has no token for any letter of English; it cannot be used"
        raise ModelError(message)
    length = min(CHUNK, context_length, len(token_ids))
    return list(token_ids[: len(token_ids) // length * length].reshape(-1, length))


def _log_softmax(logits: Logits) -> Floats:
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
