"""The parameters, histories and random streams of all slots as columns, one row a slot."""

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from aobatch.arrays import Floats, TokenIds
from aobatch.sampling.params import SamplingParams

Scalar = TypeVar("Scalar", bound=np.generic)


def take_rows(array: NDArray[Scalar], rows: TokenIds) -> NDArray[Scalar]:
    """Take the rows at rising indices, [n, ...]; a view where they are neighbours."""
    if rows.size and rows[-1] - rows[0] == rows.size - 1:
        return array[rows[0] : rows[-1] + 1]
    return np.take(array, rows, axis=0)


NO_TOKEN = -1
"""Fills the unused end of a list: no token has this id."""


@dataclass(frozen=True, slots=True)
class Entries:
    """The entries of some slots' lists, one after the other."""

    rows: TokenIds
    """Which of the asked slots an entry belongs to, [M], rising."""
    ids: TokenIds
    """Token ids, [M], each once in a row."""
    values: Floats
    """The number of each, [M]."""


class TokenLists:
    """Holds for every slot the ids that matter to it, as arrays as wide as the longest list."""

    def __init__(self, num_slots: int) -> None:
        self._ids = np.full((num_slots, 1), NO_TOKEN, dtype=np.int64)
        self._values = np.zeros((num_slots, 1))
        self._lengths = np.zeros(num_slots, dtype=np.int64)

    def assign(self, slot: int, ids: TokenIds, values: Floats | float) -> None:
        """Replace the list of a slot; ids are distinct."""
        self._widen(len(ids))
        self._ids[slot] = NO_TOKEN
        self._ids[slot, : len(ids)] = ids
        self._values[slot, : len(ids)] = values
        self._lengths[slot] = len(ids)

    def move(self, source: int, target: int) -> None:
        """Copy the list of slot source over the one of slot target."""
        for array in (self._ids, self._values, self._lengths):
            array[target] = array[source]

    def entries(self, slots: slice, wanted: NDArray[np.bool_] | None = None) -> Entries:
        """List all entries of the slots, or of those that are wanted, [num_slots]."""
        lengths = self._lengths[slots] if wanted is None else self._lengths[slots] * wanted
        width = int(lengths.max(initial=0))
        rows, places = np.nonzero(np.arange(width) < lengths[:, None])
        picked = rows + slots.start, places
        return Entries(rows, self._ids[picked], self._values[picked])

    def count(self, slots: TokenIds, token_ids: TokenIds) -> None:
        """Add one to the number of token_ids[i] in the list of slots[i]; a new id joins with 1."""
        lengths = self._lengths[slots]
        is_known = self._ids[slots, : lengths.max(initial=0) + 1] == token_ids[:, None]
        found = is_known.any(axis=1)
        places = np.where(found, is_known.argmax(axis=1), lengths)
        self._widen(int(places.max(initial=0)) + 1)
        self._ids[slots, places] = token_ids
        self._values[slots, places] = np.where(found, self._values[slots, places], 0) + 1
        self._lengths[slots] += ~found

    def _widen(self, width: int) -> None:
        extra = max(width, 2 * self._ids.shape[1]) - self._ids.shape[1]
        if width > self._ids.shape[1]:
            self._ids = np.pad(self._ids, ((0, 0), (0, extra)), constant_values=NO_TOKEN)
            self._values = np.pad(self._values, ((0, 0), (0, extra)))


_PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty")
_NUMBERS = ("temperature", "top_p", "min_p", *_PENALTIES)
_COUNTS = ("top_k", "num_logprobs", "min_tokens", "num_generated")
_FLAGS = ("is_drawn", "is_filtered", "is_penalised", "is_scored")

ROW = np.dtype(
    [(name, np.float64) for name in _NUMBERS]
    + [(name, np.int64) for name in _COUNTS]
    + [(name, np.bool_) for name in _FLAGS]
)

Table = NDArray[np.void]
"""Rows of type ROW, one a slot; one of zeros is greedy and asks for nothing."""


class Columns:
    """Keeps what each slot's sequence asked for and what it has generated."""

    def __init__(self, num_slots: int, vocab_size: int) -> None:
        self._vocab_size = vocab_size
        self.table: Table = np.zeros(num_slots, dtype=ROW)
        self.bias = TokenLists(num_slots)
        self.ends = TokenLists(num_slots)
        self.seen = TokenLists(num_slots)

    def admit(self, slot: int, params: SamplingParams, prompt_token_ids: TokenIds) -> None:
        """Begin a sequence in a slot."""
        self.table[slot] = self._row(params)
        bias = dict(params.logit_bias)
        self.bias.assign(slot, _ids(bias), np.array(list(bias.values()), dtype=np.float64))
        ends = params.end_token_ids if params.min_tokens > 0 else ()
        self.ends.assign(slot, _ids(dict.fromkeys(ends)), 0.0)
        # Only the repetition penalty looks at the prompt, whose tokens count as seen 0 times.
        is_repetition = params.repetition_penalty != 1.0
        prompt = np.unique(prompt_token_ids) if is_repetition else prompt_token_ids[:0]
        self.seen.assign(slot, prompt, 0.0)

    def move(self, source: int, target: int) -> None:
        """Copy the sequence of slot source over slot target."""
        self.table[target] = self.table[source]
        for lists in (self.bias, self.ends, self.seen):
            lists.move(source, target)

    def record(self, slots: slice, token_ids: TokenIds) -> None:
        """Take note of the token that each slot got, [B]."""
        rows = self.table[slots]
        rows["num_generated"] += 1
        penalised = np.flatnonzero(rows["is_penalised"])
        if penalised.size:
            self.seen.count(penalised + slots.start, token_ids[penalised])

    def _row(self, params: SamplingParams) -> Table:
        row = np.zeros((), dtype=ROW)
        for name in (*_NUMBERS, "min_tokens"):
            row[name] = getattr(params, name)
        row["top_k"] = params.top_k if 0 < params.top_k < self._vocab_size else self._vocab_size
        row["num_logprobs"] = params.num_logprobs or 0
        row["is_scored"] = params.num_logprobs is not None
        row["is_drawn"] = not params.is_greedy
        is_narrowed = row["top_k"] < self._vocab_size or row["top_p"] < 1 or row["min_p"] > 0
        row["is_filtered"] = row["is_drawn"] and is_narrowed
        row["is_penalised"] = [row[name] for name in _PENALTIES] != [1.0, 0.0, 0.0]
        return row


def _ids(ids: dict[int, float] | dict[int, None]) -> TokenIds:
    return np.fromiter(ids, dtype=np.int64, count=len(ids))


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
