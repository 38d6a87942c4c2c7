"""One uniform number a row turned into one token, by the inverse of the distribution function."""

from hashlib import blake2b
from typing import Final

import numpy as np

from aobatch.arrays import Floats, TokenIds
from aobatch.sampling.blocks import BLOCK, Blocks
from aobatch.sampling.filters import Rows, targets_of
from aobatch.sampling.weights import scales_of, weights_of

KEY_BYTES: Final = 16
WORDS_PER_COUNTER: Final = 4
"""A Philox4x64 counter gives four 64-bit words."""


def stream_key(*parts: bytes | str | int) -> bytes:
    """Derive the 16-byte key of a stream; parts that differ in type, value or number differ."""
    digest = blake2b(digest_size=KEY_BYTES)
    for part in parts:
        kind = b"bytes" if isinstance(part, bytes) else b"str" if isinstance(part, str) else b"int"
        raw = part if isinstance(part, bytes) else str(part).encode()
        # The length ahead of each part keeps ("ab", "c") from meeting ("a", "bc").
        digest.update(kind + b":" + len(raw).to_bytes(8, "little") + raw)
    return digest.digest()


def uniforms_of(key: bytes, start: int, count: int) -> Floats:
    """Compute numbers start .. start + count of a key's stream in [0, 1), [count].

    They are those of numpy's Philox, and cost the same wherever they start.
    """
    counter, skipped = divmod(start, WORDS_PER_COUNTER)
    words = np.frombuffer(key, dtype="<u8", count=2).astype(np.uint64)
    generator = np.random.Philox(key=words, counter=counter)
    raw = generator.random_raw(skipped + count)[skipped:]
    # The 53 upper bits of a word, as numpy's Generator.random() takes them.
    return np.asarray((raw >> np.uint64(11)) * 2.0**-53)


class UniformColumns:
    """The streams of all slots, read a block ahead so that a step runs no Python for a row."""

    BLOCK: Final = 64
    """Numbers that are made of a stream at a time."""

    def __init__(self, num_slots: int) -> None:
        self._keys = [bytes(KEY_BYTES)] * num_slots
        self._values = np.zeros((num_slots, self.BLOCK))
        self._loaded = np.full(num_slots, -1)

    def admit(self, slot: int, key: bytes) -> None:
        """Start the stream of the key in a slot."""
        self._keys[slot] = key
        self._loaded[slot] = -1

    def move(self, source: int, target: int) -> None:
        """Continue in slot target what slot source began."""
        self._keys[target] = self._keys[source]
        self._values[target] = self._values[source]
        self._loaded[target] = self._loaded[source]

    def take(self, slots: TokenIds, counters: TokenIds) -> Floats:
        """Read number counters[i] of the stream in slots[i], [n]."""
        blocks, offsets = np.divmod(counters, self.BLOCK)
        for i in np.flatnonzero(self._loaded[slots] != blocks):
            start = int(blocks[i]) * self.BLOCK
            self._values[slots[i]] = uniforms_of(self._keys[slots[i]], start, self.BLOCK)
        self._loaded[slots] = blocks
        return np.asarray(self._values[slots, offsets])


def draw_from_blocks(blocks: Blocks, rows: Rows, uniforms: Floats) -> TokenIds:
    """Draw one token of each whole row [n]: first a block, then a token in it."""
    places, uniforms = invert(rows.reached, uniforms)
    logits = blocks.read(rows.rows, places)
    peaks = rows.maxima[np.arange(len(places)), places]
    inside = weights_of(logits, peaks[:, None], scales_of(rows.temperatures)[:, None])
    columns, _ = invert(np.cumsum(inside, axis=1, dtype=np.float64), uniforms)
    return np.asarray(places * BLOCK + columns)


def invert(sums: Floats, uniforms: Floats) -> tuple[TokenIds, Floats]:
    """Find where the share uniforms[i] of running sums [n, K] is reached: column, rest.

    The rest [n] is how far into the column's own part it falls, 0..1.
    """
    every = np.arange(len(uniforms))
    targets = targets_of(uniforms, sums[:, -1])
    places = np.count_nonzero(sums <= targets[:, None], axis=1)
    before = np.where(places > 0, sums[every, np.maximum(places - 1, 0)], 0.0)
    rests = (targets - before) / (sums[every, places] - before)
    return places, np.clip(rests, 0.0, 1.0)
