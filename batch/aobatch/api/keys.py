"""Names for requests that depend on what they say: not on the line, the order or the spacing."""

from array import array
from hashlib import blake2b

import msgspec

from aobatch.api.body import CompletionBody

_PERSON = b"aobatch-request"
_HASH_MASK = 2**64 - 1


class HashSet:
    """A set of 64-bit hashes that takes 12 to 24 bytes an entry, where Python's takes 80."""

    def __init__(self) -> None:
        # Open addressing; zero marks a free place, so that hash zero is kept as one.
        self._table = array("Q", bytes(8 * 1024))
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, value: int) -> bool:
        """Add a hash; say whether it is new."""
        if 3 * self._length >= 2 * len(self._table):
            self._grow()
        is_new = self._place(value or 1)
        self._length += is_new
        return is_new

    def _place(self, value: int) -> bool:
        table = self._table
        mask = len(table) - 1
        index = value & mask
        while held := table[index]:
            if held == value:
                return False
            index = index + 1 & mask
        table[index] = value
        return True

    def _grow(self) -> None:
        values = self._table
        self._table = array("Q", bytes(16 * len(values)))
        for value in values:
            if value:
                self._place(value)


class KeyMaker:
    """Makes the keys of a job's requests and remembers the hashes of those there were."""

    def __init__(self) -> None:
        self._seen = HashSet()
        self._repeats: dict[int, int] = {}
        self._encoder = msgspec.msgpack.Encoder()

    def claim(self, custom_id: str | None) -> bool:
        """Remember a custom_id; say whether no line before had it, which is so for None."""
        if custom_id is None:
            return True
        # Only this process compares them, so Python's own hash will do; it is signed.
        return self._seen.add(hash(custom_id) & _HASH_MASK)

    def make_key(self, custom_id: str | None, body: CompletionBody) -> str:
        """Hash what a request says and its number among the equal ones, 32 hexadecimal digits."""
        digest = blake2b(self._encoder.encode((custom_id, body)), digest_size=16, person=_PERSON)
        # A custom_id stands in a job once, so that only requests without one can be equal.
        occurrence = self._count(digest.digest()) if custom_id is None else 0
        digest.update(occurrence.to_bytes(8, "little"))
        return digest.hexdigest()

    def _count(self, digest: bytes) -> int:
        value = int.from_bytes(digest[:8])
        if self._seen.add(value):
            return 0
        self._repeats[value] = self._repeats.get(value, 0) + 1
        return self._repeats[value]
