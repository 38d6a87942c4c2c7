"""What an exported graph is given beside its cache, as it asks for it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aobatch.models.foreign_layout import Layout, Port
from aobatch.runners import Chunk


class Frame(NamedTuple):
    """How the tokens of several rows stand in one run."""

    width: int
    """Columns of the mask ahead of the new tokens."""
    num_new: int
    num_logits: int
    """Of how many of the last positions the graph gives scores."""


def kept_logits(layout: Layout, chunks: Sequence[Chunk], num_new: int) -> int:
    """Say of how many of the last positions scores are needed, or given whether needed or not."""
    if layout.num_logits_to_keep is None:
        return num_new
    unneeded = min(len(chunk.token_ids) - chunk.num_logits for chunk in chunks)
    return max(1, num_new - unneeded)


def feeds_of(
    layout: Layout, chunks: Sequence[Chunk], frame: Frame, *, is_left_padded: bool
) -> dict[str, NDArray[Any]]:
    """Give the inputs of a run by name, new tokens padded on the right."""
    sizes = np.array([[len(chunk.token_ids)] for chunk in chunks])
    starts = np.array([[chunk.start] for chunk in chunks])
    token_ids = np.zeros((len(chunks), frame.num_new), np.int64)
    for row, chunk in zip(token_ids, chunks, strict=True):
        row[: len(chunk.token_ids)] = chunk.token_ids
    columns = np.arange(frame.width + frame.num_new)
    first = frame.width - starts if is_left_padded else 0
    mask = (columns >= first) & (columns < first + starts + sizes)
    # Padding has the last token's position, which is within what the graph knows.
    positions = starts + np.minimum(np.arange(frame.num_new), sizes - 1)
    has_past = np.array([frame.width > 0])
    kept = np.array([frame.num_logits])
    if layout.num_logits_to_keep and not layout.num_logits_to_keep.dimensions:
        kept = kept[0]
    values: list[tuple[Port | None, NDArray[Any]]] = [
        (layout.input_ids, token_ids),
        (layout.attention_mask, mask),
        (layout.position_ids, positions),
        (layout.use_cache_branch, has_past),
        (layout.num_logits_to_keep, np.asarray(kept)),
    ]
    return {
        port.name: np.ascontiguousarray(value.astype(port.dtype, copy=False))
        for port, value in values
        if port is not None
    }
