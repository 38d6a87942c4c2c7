"""How close a converted graph is to its fp32 reference, on a text that ships with the package."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, Logits, TokenIds
from aobatch.errors import ModelError
from aobatch.models.convert.graph import StagedDecoder
from aobatch.models.store.folder import GraphSizes, Quality
from aobatch.models.tokenizer import Tokenizer

CHUNK = 256
_MAX_LOGITS, _MAX_PRODUCTS = 2**28, 2**43
_SLICE = 2**19


class Scorer(Protocol):
    """Runs a decoder graph over texts, each from its beginning."""

    def __call__(self, graph: Path, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield all logits of each text, [N, V]."""
        ...

    def reference(self, decoder: StagedDecoder, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Yield the same in full precision, each weight of which is read once for all texts."""
        ...

    def fused(self, graph: Path, sizes: GraphSizes, texts: Sequence[TokenIds]) -> Iterator[Logits]:
        """Give the same of a graph over fused operators; KernelsError if they cannot be had."""
        ...


def quality_text() -> str:
    """Give the shipped text."""
    return files("aobatch.models").joinpath("quality.txt").read_text(encoding="utf-8")


def measure(
    reference: Iterable[Logits],
    candidates: Sequence[Iterator[Logits]],
    advance: Callable[[int], None],
) -> list[Quality]:
    """Compare graphs' logits with a reference's over the same tokens, candidate by candidate.

    `advance(tokens)` follows the work.
    """
    kl, agreement = np.zeros(len(candidates)), np.zeros(len(candidates))
    num_tokens = 0
    # The runs of a graph take all cores by themselves, the comparison has to be shared out.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for expected, *found in zip(reference, *candidates, strict=True):
            compare = partial(_compare, expected, found)
            for distances, agreements in threads.map(compare, _row_slices(expected)):
                kl += distances
                agreement += agreements
            num_tokens += len(expected)
            advance(num_tokens)
    return [
        Quality(round(float(k), 5), round(float(a), 4), num_tokens)
        for k, a in zip(kl / num_tokens, agreement / num_tokens, strict=True)
    ]


def quality_chunks(
    tokenizer: Tokenizer, context_length: int = CHUNK, start: int | None = None
) -> list[TokenIds]:
    """Cut the shipped text into whole chunks that the context holds; what is left over is not used.

    Each has `start` ahead, the token that begins every document of a model. Raises ModelError if
    there is nothing to cut.
    """
    token_ids = tokenizer.encode(quality_text())
    if not len(token_ids):
        message = "the vocabulary has no token for any letter of English; it cannot be used"
        raise ModelError(message)
    ahead = np.array([] if start is None else [start], np.int64)
    length = max(1, min(CHUNK, context_length, len(token_ids) + len(ahead)) - len(ahead))
    chunks = token_ids[: len(token_ids) // length * length].reshape(-1, length)
    return [np.concatenate([ahead, chunk]) for chunk in chunks]


def affordable(chunks: Sequence[TokenIds], vocab_size: int, num_weights: int) -> list[TokenIds]:
    """Choose chunks, far apart, whose logits are not too many, nor the products that give them."""
    num_tokens = min(_MAX_LOGITS // vocab_size, _MAX_PRODUCTS // num_weights)
    most = max(1, num_tokens // len(chunks[0]))
    places = np.linspace(0, len(chunks) - 1, min(most, len(chunks)))
    return [chunks[int(place)] for place in places]


def _compare(
    expected: Logits, found: Sequence[Logits], rows: slice
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum over rows, for each candidate, its distance and how often it has the same first token."""
    logprobs = _log_softmax(expected[rows])
    probabilities, best = np.exp(logprobs), expected[rows].argmax(axis=1)
    distances, agreements = [], []
    for logits in found:
        distance = logprobs - _log_softmax(logits[rows])
        distances.append((probabilities * distance).sum(dtype=np.float64))
        agreements.append((best == logits[rows].argmax(axis=1)).sum())
    return np.array(distances), np.array(agreements)


def _row_slices(logits: Logits) -> Iterator[slice]:
    """Yield slices of rows that stay in the processor's caches."""
    step = max(1, _SLICE // logits.shape[1])
    for start in range(0, len(logits), step):
        yield slice(start, start + step)


def _log_softmax(logits: Logits) -> Floats:
    """Give log-probabilities in single precision, whose sum is taken in double."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    sums = np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64)
    return np.asarray(shifted - np.log(sums).astype(np.float32))
